"""Trees that cannot be, and what the plan adds to those that can."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest

from bouvet.errors import FormatError, ImageError, LayerCorrupt
from bouvet.formats.ext4 import Ext4Options, Ext4Reader, plan_filesystem, write_filesystem
from bouvet.formats.ext4.inodes import MAX_SECONDS, MIN_SECONDS
from bouvet.formats.tree import FileTree, Inode, MemorySource, Segment, directory, regular_file, symlink
from tests.formats.ext4 import oracles, trees

SOURCE = MemorySource(bytes(8192))


def content(*segments: tuple[int, int], size: int) -> FileTree:
    return {
        b"f": Inode(
            stat.S_IFREG | 0o644,
            size=size,
            segments=tuple(Segment(offset, length, SOURCE, 0) for offset, length in segments),
        )
    }


IMPOSSIBLE: dict[str, FileTree] = {
    "name of 256 bytes": {b"n" * 256: regular_file(b"")},
    "empty name": {b"a//b": regular_file(b"")},
    "absolute path": {b"/a": regular_file(b"")},
    "trailing slash": {b"a/": directory()},
    "dot": {b"a/./b": regular_file(b"")},
    "dot dot": {b"a/../b": regular_file(b"")},
    "zero byte": {b"a\0b": regular_file(b"")},
    "zero byte in a missing directory": {b"a\0b/c": regular_file(b"")},
    "child of a file": {b"a": regular_file(b""), b"a/b": regular_file(b"")},
    "grandchild of a link": {b"a": symlink(b"b"), b"a/b/c": regular_file(b"")},
    "root is a file": {b"": regular_file(b"")},
    "lost+found is a file": {b"lost+found": regular_file(b"")},
    "unknown type": {b"a": Inode(0o644)},
    "mode beyond 16 bits": {b"a": Inode(0o300644)},
    "negative uid": {b"a": Inode(stat.S_IFREG, uid=-1)},
    "gid of 33 bits": {b"a": Inode(stat.S_IFREG, gid=2**32)},
    "empty target": {b"a": symlink(b"")},
    "target of 4096 bytes": {b"a": symlink(b"t" * 4096)},
    "target with zero": {b"a": symlink(b"t\0")},
    "major of 13 bits": {b"a": Inode(stat.S_IFCHR, device=(4096, 0))},
    "minor of 21 bits": {b"a": Inode(stat.S_IFBLK, device=(0, 1 << 20))},
    "segment past the end": content((0, 4096), size=4095),
    "segments overlap": content((0, 8192), (4096, 4096), size=8192),
    "segments not ascending": content((4096, 4096), (0, 4096), size=8192),
    "segment not aligned": content((100, 96), size=8192),
    "segment cut within a block": content((0, 100), size=8192),
    "empty segment": content((0, 0), size=0),
    "file of 2 TiB": content(size=1 << 41),
    "unknown attribute": {b"a": trees.with_xattrs(regular_file(b""), system__nfs4_acl=b"x")},
    "attribute without a name": {b"a": Inode(stat.S_IFREG, xattrs={b"user.": b"x"})},
    "attribute's name too long": {b"a": Inode(stat.S_IFREG, xattrs={b"user." + b"n" * 256: b"x"})},
    "attributes too large": {b"a": trees.with_xattrs(regular_file(b""), user__x=bytes(4060))},
    "ACL of another version": {
        b"a": trees.with_xattrs(regular_file(b""), system__posix_acl_access=b"\1\0\0\0")
    },
    "ACL cut short": {b"a": trees.with_xattrs(regular_file(b""), system__posix_acl_access=trees.ACL[:-1])},
    "ACL of an unknown kind": {
        b"a": trees.with_xattrs(directory(), system__posix_acl_default=trees.acl((3, 7, 0)))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_tree_is_refused_by_its_path(name: str) -> None:
    tree = IMPOSSIBLE[name]
    with pytest.raises(FormatError) as caught:
        plan_filesystem(tree, Ext4Options())
    path = max(tree).replace(b"\0", b"")[:3].decode()
    assert "root" in caught.value.message or path.strip("/")[:1] in caught.value.message


def test_a_file_has_at_most_65000_names() -> None:
    inode = regular_file(b"")
    tree = {b"%05d" % index: inode for index in range(65_000)}
    assert plan_filesystem(tree, Ext4Options()).nodes[2].links == 65_000
    with pytest.raises(FormatError, match="65000"):
        plan_filesystem(tree | {b"one more": inode}, Ext4Options())


def test_a_directory_has_one_name() -> None:
    shared = directory()
    with pytest.raises(FormatError, match="second name"):
        plan_filesystem({b"a": shared, b"b": shared}, Ext4Options())


@pytest.mark.slow
@pytest.mark.needs_tool("e2fsck")
def test_a_directory_can_have_more_than_65000_subdirectories(tmp_path: Path) -> None:
    image = tmp_path / "image"
    tree = {b"d/%05d" % index: directory() for index in range(65_100)}
    oracles.make_image(image, tree)
    oracles.check_fsck(image)
    with Ext4Reader(image) as reader:
        assert len(reader.listdir(b"d")) == 65_100


def test_missing_directories_are_made(tmp_path: Path) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, {b"a/b/c": regular_file(b"", uid=5)}, Ext4Options(timestamp=77))
    with Ext4Reader(image) as reader:
        assert sorted(reader.tree()) == [b"", b"a", b"a/b", b"a/b/c", b"lost+found"]
        for path in (b"", b"a", b"a/b"):
            made = reader.stat(path)
            assert (made.mode, made.uid, made.gid, made.mtime) == (0o40755, 0, 0, 77 * trees.SECOND)
        assert reader.stat(b"lost+found").mode == 0o40700


def test_times_out_of_range_become_the_nearest(tmp_path: Path) -> None:
    image = tmp_path / "image"
    tree = {
        b"early": regular_file(b"", mtime=(MIN_SECONDS - 1) * trees.SECOND + 5),
        b"late": regular_file(b"", mtime=(MAX_SECONDS + 1) * trees.SECOND + 5),
    }
    oracles.make_image(image, tree)
    with Ext4Reader(image) as reader:
        assert reader.stat(b"early").mtime == MIN_SECONDS * trees.SECOND
        assert reader.stat(b"late").mtime == MAX_SECONDS * trees.SECOND


def test_a_source_is_copied_in_one_piece() -> None:
    """Files that lie one behind the other in a source do so in the image, whatever their names."""
    blob = MemorySource(trees.noise(300 * 4096))
    tree: FileTree = {}
    offset = 0
    for index in (5, 3, 8, 1, 9, 2):
        size = index * 4096 + index * 11
        tree[b"f%d" % index] = Inode(0o100644, size=size, segments=(Segment(0, size, blob, offset),))
        offset += (index + 1) * 4096
    plan = plan_filesystem(tree, Ext4Options())
    (copy,) = plan.copies
    assert (copy.source, copy.source_offset, copy.length) == (blob, 0, offset - 4096 + 22)


def test_progress_rises_to_one(tmp_path: Path) -> None:
    plan = plan_filesystem(trees.large_files(), Ext4Options())
    told: list[float] = []
    with (tmp_path / "image").open("wb") as file:
        write_filesystem(plan, file.fileno(), progress=told.append)
    assert len(told) >= 5
    assert told == sorted(told)
    assert told[-1] == 1


class CorruptSource(MemorySource):
    """A layer whose second half is not what it was."""

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        super().copy(offset, length // 2, target, target_offset)
        raise LayerCorrupt("a cached layer is corrupt", digest="abc")


def test_an_interrupted_image_is_no_file_system(tmp_path: Path) -> None:
    image = tmp_path / "image"
    source = CorruptSource(trees.noise(1 << 20))
    tree = {b"f": Inode(0o100644, size=1 << 20, segments=(Segment(0, 1 << 20, source, 0),))}
    with pytest.raises(LayerCorrupt):
        oracles.make_image(image, tree)
    with pytest.raises(FormatError, match="no ext4"):
        Ext4Reader(image)


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    plan = plan_filesystem({b"f": regular_file(trees.noise(3 << 20))}, Ext4Options())
    oracles.run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path)
    try:
        with (
            pytest.raises(ImageError, match="No space left") as caught,
            (tmp_path / "image").open("wb") as file,
        ):
            write_filesystem(plan, file.fileno())
    finally:
        oracles.run("umount", tmp_path)
    assert caught.value.hint == f"it needs up to {-(-plan.size >> 20)} MiB of disk space"


def test_a_limit_of_the_files_size_is_told(tmp_path: Path) -> None:
    plan = plan_filesystem({b"f": regular_file(b"content")}, Ext4Options())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "image").open("wb") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            with pytest.raises(ImageError, match="File too large"):
                write_filesystem(plan, file.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
