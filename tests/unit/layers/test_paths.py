"""Real places in a tree."""

from __future__ import annotations

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.layers.paths import exists, real_directory, real_path

TREE: FileTree = {
    b"usr": directory(),
    b"usr/bin": directory(),
    b"usr/bin/sh": symlink(b"dash"),
    b"usr/bin/dash": regular_file(b""),
    b"usr/bin/broken": symlink(b"/nowhere"),
    b"bin": symlink(b"usr/bin"),
    b"var/run": symlink(b"/run"),
    b"up": symlink(b"../../../../etc"),
    b"loop": symlink(b"loop"),
    b"file": regular_file(b""),
}


@pytest.mark.parametrize(
    ("path", "real"),
    [
        (b"", b""),
        (b"bin", b"usr/bin"),
        (b"usr/bin/new", b"usr/bin/new"),
        (b"bin/new/deep", b"usr/bin/new/deep"),
        (b"var/run/x", b"run/x"),
        (b"up", b"etc"),
    ],
)
def test_directories(path: bytes, real: bytes) -> None:
    assert real_directory(TREE, path) == real


def test_the_last_name_may_be_a_link_itself() -> None:
    assert real_path(TREE, b"bin/sh") == b"usr/bin/sh"
    assert real_path(TREE, b"bin") == b"bin"


@pytest.mark.parametrize("path", [b"file/below", b"loop/below"])
def test_what_is_no_directory_is_refused(path: bytes) -> None:
    with pytest.raises(LayerError, match=r"leads (through the file /file|over too many links)"):
        real_directory(TREE, path)


def test_what_exists() -> None:
    assert exists(TREE, "/bin/sh")
    assert not exists(TREE, "/usr/bin/broken")
    assert not exists(TREE, "/bin/bash")
    assert not exists(TREE, "/loop/x")
    assert not exists(TREE, "/loop")
