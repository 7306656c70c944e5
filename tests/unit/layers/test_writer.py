"""A layer in the making: entries one by one, and from a tar stream."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode, regular_file
from bouvet.layers import index
from bouvet.layers.blob import BlobSource
from bouvet.layers.writer import BLOB, LayerWriter


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return io.BytesIO(stream.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def layer_of(directory: Path, stream: io.BytesIO) -> FileTree:
    """Return the tree of a layer that was committed and read back."""
    writer = LayerWriter(directory)
    writer.add_tar(stream)
    document = index.parse(writer.commit())
    size, checksums = index.decode_blob(document)
    return index.decode_tree(document, BlobSource(directory / BLOB, size, checksums, "0" * 64))


def test_every_type_and_attribute_of_a_tar_survives(tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\n\xff\x00\x00"
    pax = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
    tree = layer_of(
        tmp_path,
        tar_of(
            (member("./", tarfile.DIRTYPE, mode=0o755), b""),
            (member("./dir/", tarfile.DIRTYPE, mode=0o1777, uid=70000, gid=80000), b""),
            (member("./dir/file", mode=0o4755, mtime=1234567890.123456789, pax_headers=pax), b"content"),
            (member("./dir/link", tarfile.LNKTYPE, linkname="./dir/file"), b""),
            (member("./dir/symlink", tarfile.SYMTYPE, linkname="/else/where"), b""),
            (member("./null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), b""),
            (member("./disk", tarfile.BLKTYPE, devmajor=8, devminor=300), b""),
            (member("./pipe", tarfile.FIFOTYPE), b""),
            (member("./name-\udcff"), b"not UTF-8"),
        ),
    )
    file = tree[b"dir/file"]
    assert file.content() == b"content"
    assert file.mode == stat.S_IFREG | 0o4755
    assert file.xattrs == {b"security.capability": capability}
    assert tree[b"dir/link"] is file
    assert (tree[b"dir"].mode, tree[b"dir"].uid, tree[b"dir"].gid) == (stat.S_IFDIR | 0o1777, 70000, 80000)
    assert tree[b"dir/symlink"].target == b"/else/where"
    assert (stat.S_IFMT(tree[b"null"].mode), tree[b"null"].device) == (stat.S_IFCHR, (1, 3))
    assert (stat.S_IFMT(tree[b"disk"].mode), tree[b"disk"].device) == (stat.S_IFBLK, (8, 300))
    assert stat.S_ISFIFO(tree[b"pipe"].mode)
    assert tree[b"name-\xff"].content() == b"not UTF-8"
    assert b"" in tree


def test_times_have_nanoseconds(tmp_path: Path) -> None:
    exact = member("file", pax_headers={"mtime": "1700000000.123456789"})
    assert layer_of(tmp_path, tar_of((exact, b"")))[b"file"].mtime == 1700000000_123456789


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a/.."])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    writer = LayerWriter(tmp_path)
    with pytest.raises(FormatError):
        writer.add_tar(tar_of((member(name), b"")))
    writer.close()


def test_leading_slashes_are_the_root_of_the_layer(tmp_path: Path) -> None:
    assert set(layer_of(tmp_path, tar_of((member("/etc//./passwd"), b"")))) == {b"etc/passwd"}


@pytest.mark.parametrize("cut", [100, 600, 1500])
def test_a_truncated_stream_is_refused(tmp_path: Path, cut: int) -> None:
    whole = tar_of((member("a"), b"x" * 2000)).getvalue()
    writer = LayerWriter(tmp_path)
    with pytest.raises(FormatError):
        writer.add_tar(io.BytesIO(whole[:cut]))
    writer.close()


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    writer = LayerWriter(tmp_path)
    with pytest.raises(FormatError):
        writer.add_tar(tar_of((member("a", tarfile.LNKTYPE, linkname="b"), b"")))
    writer.close()


def test_keep_decides_and_may_change(tmp_path: Path) -> None:
    def keep(path: bytes, inode: Inode) -> bool:
        inode.uid = 7
        return path != b"drop"

    writer = LayerWriter(tmp_path)
    writer.add_tar(tar_of((member("drop"), b"x"), (member("take"), b"y")), keep)
    writer.commit()
    assert {path: inode.uid for path, inode in writer.tree.items()} == {b"take": 7}


@pytest.mark.parametrize("path", [b"/a", b"a/", b"a//b", b"./a", b"a/../b", b"a\0b"])
def test_only_plain_paths_are_added(tmp_path: Path, path: bytes) -> None:
    writer = LayerWriter(tmp_path)
    with pytest.raises(FormatError):
        writer.add(path, regular_file(b""))
    writer.close()


def test_the_same_object_twice_is_a_hard_link(tmp_path: Path) -> None:
    writer = LayerWriter(tmp_path)
    shared = regular_file(b"shared")
    writer.add(b"a", shared)
    writer.add(b"b", shared)
    writer.add(b"c", regular_file(b"shared"))
    writer.commit()
    assert writer.tree[b"a"] is writer.tree[b"b"]
    assert writer.tree[b"a"] is not writer.tree[b"c"]
