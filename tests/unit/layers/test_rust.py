"""Rust's tools at rustup's places, over Debian's."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, directory, regular_file
from bouvet.layers import rust
from bouvet.layers.writer import LayerWriter
from bouvet.plan.steps import RustInputs
from tests.unit.layers.bench import bench

INPUTS = RustInputs("x86_64")


def debian(*tools: bytes) -> FileTree:
    tree: FileTree = {b"usr": directory(), b"usr/bin": directory(), b"usr/local": directory()}
    return tree | {b"usr/bin/" + tool: regular_file(b"", 0o755, mtime=5) for tool in tools}


def test_tools_are_linked_and_the_homes_exist(tmp_path: Path, layer: LayerWriter) -> None:
    rust.make(INPUTS, bench(tmp_path, debian(*rust.REQUIRED, b"rustdoc")).workshop, layer)
    links = {path: inode.target for path, inode in layer.tree.items() if inode.is_symlink}
    assert links == {
        b"usr/local/cargo/bin/" + tool: b"/usr/bin/" + tool for tool in (*rust.REQUIRED, b"rustdoc")
    }
    made = {path for path, inode in layer.tree.items() if inode.is_directory}
    assert made == {b"usr/local/rustup", b"usr/local/cargo", b"usr/local/cargo/bin"}
    assert {stat.S_IMODE(layer.tree[path].mode) for path in made} == {0o755}
    assert {inode.mtime for inode in layer.tree.values()} == {5}


def test_a_missing_tool_is_named(tmp_path: Path, layer: LayerWriter) -> None:
    with pytest.raises(LayerError) as caught:
        rust.make(INPUTS, bench(tmp_path, debian(b"rustc", b"cargo")).workshop, layer)
    assert "clippy-driver, cargo-clippy, rustfmt" in caught.value.message
    assert "debian.packages" in str(caught.value.hint)
