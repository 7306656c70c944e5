"""Layers as tar streams, read back by Python's tarfile."""

from __future__ import annotations

import stat
import tarfile

import pytest

from bouvet.errors import FormatError
from bouvet.formats.tree import (
    BLOCK,
    FileTree,
    Inode,
    MemorySource,
    Segment,
    directory,
    regular_file,
    symlink,
)
from bouvet.image.tar import write_layer
from tests.formats.ext4 import trees
from tests.unit.image.archives import LayerMember, layer_members

WHITEOUT = Inode(stat.S_IFCHR, device=(0, 0))
OPAQUE = {b"trusted.overlay.opaque": b"y"}


class Memory:
    """A sink in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, content: bytes) -> None:
        self.content += content

    def write_zeros(self, length: int) -> None:
        self.content += bytes(length)


def written(tree: FileTree, lower: FileTree | None = None) -> dict[bytes, LayerMember]:
    sink = Memory()
    write_layer(tree, lower or {}, sink)
    assert len(sink.content) % tarfile.BLOCKSIZE == 0
    assert sink.content.endswith(bytes(2 * tarfile.BLOCKSIZE))
    return layer_members(bytes(sink.content))


def check(tree: FileTree) -> dict[bytes, LayerMember]:
    """Write a tree and compare each entry with its inode."""
    members = written(tree)
    assert set(members) == {path or b"." for path, inode in tree.items() if not stat.S_ISSOCK(inode.mode)}
    first: dict[int, bytes] = {}
    for name, member in members.items():
        inode = tree[b"" if name == b"." else name]
        info = member.info
        assert (info.mode, info.uid, info.gid) == (stat.S_IMODE(inode.mode), inode.uid, inode.gid), name
        assert (member.mtime, member.xattrs) == (inode.mtime, inode.xattrs), name
        assert (info.uname, info.gname) == ("", "")
        earlier = first.setdefault(id(inode), name)
        if earlier != name:
            assert (info.type, member.link) == (tarfile.LNKTYPE, earlier)
            continue
        assert info.isreg() == inode.is_regular
        assert info.isdir() == inode.is_directory
        assert info.issym() == inode.is_symlink
        assert info.isblk() == stat.S_ISBLK(inode.mode)
        assert info.ischr() == stat.S_ISCHR(inode.mode)
        assert info.isfifo() == stat.S_ISFIFO(inode.mode)
        assert member.link == inode.target
        if info.isdev() and not info.isfifo():
            assert (info.devmajor, info.devminor) == inode.device
        assert member.content == (inode.content() if inode.is_regular else b""), name
    return members


@pytest.mark.parametrize(
    "make",
    [
        trees.empty, trees.file_sizes, trees.hard_links, trees.modes, trees.times, trees.odd_names,
        trees.long_names, trees.deep_paths, trees.symlinks, trees.owners,
    ],
)  # fmt: skip
def test_trees_come_back_equal(make: trees.MakeTree) -> None:
    check(make())


def test_devices_come_back_equal_and_sockets_stay_out() -> None:
    # The character device 0:0 is a whiteout, and there is nothing below for it to remove.
    tree = trees.devices()
    del tree[b"c0-0"]
    assert b"socket" in tree
    assert b"socket" not in check(tree)


def test_attributes_come_back_equal() -> None:
    tree = trees.attributes()
    del tree[b"high bytes"]
    members = check(tree)
    assert members[b"ping"].xattrs[b"security.capability"] == trees.CAPABILITY
    assert members[b"acl"].xattrs[b"system.posix_acl_access"] == trees.ACL


def test_holes_are_zeros() -> None:
    source = MemorySource(trees.noise(2 * BLOCK))
    segments = (Segment(BLOCK, BLOCK, source, BLOCK), Segment(700 * BLOCK, 5, source, 0))
    check({b"sparse": Inode(stat.S_IFREG | 0o600, size=700 * BLOCK + 5, segments=segments)})
    check({b"hole only": Inode(stat.S_IFREG | 0o600, size=3 * BLOCK + 1)})


def test_parents_come_first_and_directories_stay_together() -> None:
    tree = {name: regular_file(b"") for name in (b"a-b", b"a/z", b"a/b/c", b"B", b"a.")}
    tree |= {b"a": directory(), b"a/b": directory(), b"": directory()}
    assert list(check(tree)) == [b".", b"B", b"a", b"a/b", b"a/b/c", b"a/z", b"a-b", b"a."]


def test_order_of_insertion_does_not_matter() -> None:
    tree = trees.hard_links() | trees.modes()
    first, second = Memory(), Memory()
    write_layer(tree, {}, first)
    write_layer(dict(reversed(tree.items())), {}, second)
    assert first.content == second.content


def test_removals_become_whiteout_names() -> None:
    lower = {b"a": directory(), b"a/gone": regular_file(b"x"), b"top": regular_file(b"x")}
    # The same object under two names is still two removals, not a hard link.
    upper: FileTree = {b"a/gone": WHITEOUT, b"top": WHITEOUT, b"a/new": regular_file(b"y")}
    members = written(upper, lower)
    assert list(members) == [b"a/.wh.gone", b"a/new", b".wh.top"]
    assert all(
        members[name].info.isreg() and not members[name].content for name in (b"a/.wh.gone", b".wh.top")
    )


def test_removals_of_nothing_are_left_out() -> None:
    assert written({b"never": WHITEOUT, b"new": Inode(stat.S_IFDIR | 0o755, xattrs=OPAQUE)}).keys() == {
        b"new"
    }


def test_an_opaque_directory_gets_its_marker_before_its_content() -> None:
    opaque = Inode(stat.S_IFDIR | 0o755, xattrs=OPAQUE | {b"user.kept": b"1"})
    members = written({b"a": opaque, b"a/!": regular_file(b"")}, {b"a": directory(), b"a/old": directory()})
    assert list(members) == [b"a", b"a/.wh..wh..opq", b"a/!"]
    assert members[b"a"].xattrs == {b"user.kept": b"1"}


def test_an_opaque_root() -> None:
    root = Inode(stat.S_IFDIR | 0o755, xattrs=OPAQUE)
    assert list(written({b"": root}, {b"": directory()})) == [b".", b".wh..wh..opq"]


@pytest.mark.parametrize(
    "path", [b"/absolute", b"a//b", b"..", b"a/../b", b"./a", b"a/", b"nul\0", b".wh.file", b".wh.dir/file"]
)
def test_paths_that_mean_something_else_are_refused(path: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        written({path: regular_file(b"")})
    assert repr(path) in caught.value.message


@pytest.mark.parametrize("name", [b"user.a=b", b"user.\xff", b"user.\0"])
def test_attribute_names_that_tar_cannot_hold_are_refused(name: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        written({b"file": Inode(stat.S_IFREG, xattrs={name: b"v"})})
    assert repr(name) in caught.value.message


@pytest.mark.parametrize(
    "inode",
    [
        Inode(stat.S_IFCHR, device=(1 << 21, 0)),
        Inode(stat.S_IFREG, size=BLOCK - 1, segments=(Segment(0, BLOCK, MemorySource(bytes(BLOCK)), 0),)),
        Inode(
            stat.S_IFREG,
            size=2 * BLOCK,
            segments=(Segment(0, 2 * BLOCK, MemorySource(bytes(2 * BLOCK)), 0),) * 2,
        ),
    ],
    ids=["device number", "past the end", "overlap"],
)
def test_impossible_inodes_are_refused(inode: Inode) -> None:
    with pytest.raises(FormatError) as caught:
        written({b"name": inode})
    assert "name" in caught.value.message


def test_a_root_that_is_no_directory_is_refused() -> None:
    with pytest.raises(FormatError):
        written({b"": symlink(b"/elsewhere")})
