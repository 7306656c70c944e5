"""A directory as a layer: owners, links, times and contents, in order."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode
from bouvet.layers.directory import add_directory
from bouvet.layers.writer import LayerWriter


def layer_of(root: Path, output: Path, dropped: bytes = b"none") -> FileTree:
    output.mkdir()
    layer = LayerWriter(output)

    def keep(path: bytes, _inode: Inode) -> bool:
        return path != dropped

    add_directory(layer, os.fsencode(root), keep)
    return layer.tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "b/deep").mkdir(parents=True, mode=0o750)
    (root / "b/file").write_bytes(b"x" * 5000)
    (root / "b.x").write_bytes(b"")
    (root / "c").symlink_to("b/file")
    (root / "b/hard").hardlink_to(root / "b/file")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    (root / os.fsdecode(b"na\xffme")).write_text("named")
    os.utime(root / "b/file", (7, 7))
    return root


def test_all_that_is_there(root: Path, tmp_path: Path) -> None:
    tree = layer_of(root, tmp_path / "layer")
    assert list(tree) == [b"", b"b", b"b/deep", b"b/file", b"b/hard", b"b.x", b"c", b"na\xffme", b"pipe"]
    assert tree[b"b/file"] is tree[b"b/hard"]
    assert tree[b"b/file"].content() == b"x" * 5000
    assert (tree[b"b/file"].mtime, tree[b"b/file"].uid) == (7 * 10**9, os.geteuid())
    assert tree[b"c"].target == b"b/file"
    assert tree[b"na\xffme"].content() == b"named"
    assert tree[b"pipe"].mode == (root / "pipe").lstat().st_mode


def test_a_link_stays_when_its_first_name_is_left_out(root: Path, tmp_path: Path) -> None:
    tree = layer_of(root, tmp_path / "layer", dropped=b"b/file")
    assert b"b/file" not in tree
    assert tree[b"b/hard"].content() == b"x" * 5000


@pytest.mark.needs_root
def test_device_nodes(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    os.mknod(tmp_path / "root/null", 0o20666, os.makedev(1, 3))
    assert layer_of(tmp_path / "root", tmp_path / "layer")[b"null"].device == (1, 3)


def test_another_writer_takes_it_over(root: Path, tmp_path: Path) -> None:
    made, taking = tmp_path / "made", tmp_path / "taking"
    made.mkdir()
    first = LayerWriter(made)
    add_directory(first, os.fsencode(root), lambda _path, _inode: True)
    expected = first.commit()
    taking.mkdir()
    second = LayerWriter(taking)
    second.take(made)
    assert second.tree[b"b/file"].content() == b"x" * 5000
    assert second.commit() == expected
    assert not (made / "blob").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"size":', b'"size":1'),
        (b"[0,5000,0]", b"[0,5000,4096000]"),
        (b'["b.x"', b'["../x"'),
        (b"{", b""),
    ],
)
def test_a_damaged_one_is_not_taken(root: Path, tmp_path: Path, old: bytes, new: bytes) -> None:
    made, taking = tmp_path / "made", tmp_path / "taking"
    made.mkdir()
    first = LayerWriter(made)
    add_directory(first, os.fsencode(root), lambda _path, _inode: True)
    first.commit()
    index = (made / "index.json").read_bytes()
    assert old in index
    (made / "index.json").write_bytes(index.replace(old, new, 1))
    taking.mkdir()
    with pytest.raises(FormatError):
        LayerWriter(taking).take(made)
