"""The user's own files in a layer."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.layers import files, host_files
from bouvet.layers.host_files import HostFiles
from bouvet.layers.writer import LayerWriter
from bouvet.plan.inputs import FileInputs, FilesInputs
from tests.unit.layers.bench import bench

LOWER: FileTree = {
    b"etc": directory(),
    b"etc/passwd": regular_file(b"root:x:0:0::/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n"),
    b"etc/group": regular_file(b"root:x:0:\ndev:x:1000:\nadm:x:4:\n"),
    b"usr/bin": directory(mtime=5),
    b"bin": symlink(b"usr/bin"),
    b"etc/localtime": symlink(b"/usr/share/zoneinfo/UTC"),
}


def made(tmp_path: Path, *wanted: tuple[FileInputs, HostFiles | None]) -> FileTree:
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    layer = LayerWriter(place)
    inputs = FilesInputs(
        tuple(replace(one, content=None if what is None else what.digest) for one, what in wanted)
    )
    workshop = replace(
        bench(place, LOWER).workshop, sources={what.digest: what for _, what in wanted if what is not None}
    )
    files.make(inputs, workshop, layer)
    layer.close()
    return layer.tree


def at(path: str, mode: int | None = None, owner: str = "root", group: str | None = None) -> FileInputs:
    return FileInputs(path, None, mode, owner, group)


def test_a_text(tmp_path: Path) -> None:
    tree = made(tmp_path, (at("/srv/app/motd", 0o600, "dev", "adm"), host_files.text("hello\n")))
    motd = tree[b"srv/app/motd"]
    assert (motd.content(), motd.mode, motd.uid, motd.gid, motd.mtime) == (b"hello\n", 0o100600, 1000, 4, 5)
    assert (tree[b"srv"].uid, tree[b"srv/app"].uid) == (0, 0)


def test_a_path_leads_over_links_of_the_tree(tmp_path: Path) -> None:
    assert set(made(tmp_path, (at("/bin/tool"), host_files.text("x")))) == {b"usr/bin/tool"}


def test_a_link_of_the_tree_is_replaced(tmp_path: Path) -> None:
    assert made(tmp_path, (at("/etc/localtime"), host_files.text("x")))[b"etc/localtime"].is_regular


def test_a_file_of_the_host_keeps_that_it_is_executable(tmp_path: Path) -> None:
    source = tmp_path / "tool"
    source.write_bytes(b"\0" * 8192 + b"end")
    source.chmod(0o711)
    tool = made(tmp_path, (at("/usr/bin/tool"), host_files.read(source)))[b"usr/bin/tool"]
    assert (tool.mode, tool.size, tool.content()) == (0o100755, 8195, b"\0" * 8192 + b"end")


def test_a_directory_with_all_that_is_in_it(tmp_path: Path) -> None:
    source = tmp_path / "project"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_text("x")
    (source / "a/link").symlink_to("b/file")
    tree = made(tmp_path, (at("/home/dev/project", owner="dev"), host_files.read(source)))
    assert {path: inode.uid for path, inode in tree.items()} == {
        b"home": 0,
        b"home/dev": 0,
        b"home/dev/project": 1000,
        b"home/dev/project/a": 1000,
        b"home/dev/project/a/b": 1000,
        b"home/dev/project/a/b/file": 1000,
        b"home/dev/project/a/link": 1000,
    }
    assert tree[b"home/dev/project/a/link"].target == b"b/file"


def test_a_directory_of_the_host_leaves_those_of_the_tree_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "overlay"
    (source / "bin").mkdir(parents=True)
    (source / "bin/tool").write_text("x")
    assert set(made(tmp_path, (at("/"), None), (at("/usr"), host_files.read(source)))) == {
        b"usr",
        b"usr/bin/tool",
    }


def test_an_empty_directory(tmp_path: Path) -> None:
    tree = made(tmp_path, (at("/srv/data/", 0o1777, "dev"), None))
    assert (tree[b"srv/data"].mode, tree[b"srv/data"].uid, tree[b"srv"].mode) == (0o041777, 1000, 0o040755)


@pytest.mark.parametrize(
    ("path", "owner", "said"),
    [
        ("/etc", "root", "is a directory"),
        ("/etc/passwd/below", "root", "leads through the file"),
        ("/x", "nobody", "no user 'nobody'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, path: str, owner: str, said: str) -> None:
    with pytest.raises(LayerError, match=said):
        made(tmp_path, (at(path, owner=owner), host_files.text("x")))


@pytest.mark.parametrize("change", [b"other", b"longer than before", b""])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, change: bytes) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"right")
    read = host_files.read(source)
    source.write_bytes(change)
    with pytest.raises(LayerError, match="was changed"):
        made(tmp_path, (at("/file"), read))


def test_a_file_that_is_gone_meanwhile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"right")
    read = host_files.read(tmp_path / "file")
    (tmp_path / "file").unlink()
    with pytest.raises(LayerError, match="was changed"):
        made(tmp_path, (at("/file"), read))
