"""On a file system that can share blocks between files, an image shares its data with the cached layers."""

from __future__ import annotations

import io
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.errors import LayerCorrupt
from bouvet.formats import tree
from bouvet.formats.ext4 import Ext4Options, plan_filesystem, write_filesystem
from bouvet.formats.tree import FileTree, Inode
from bouvet.layers.store import Store
from bouvet.layers.writer import LayerWriter

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tool("mkfs.btrfs"), pytest.mark.needs_kernel("btrfs")]

SIZE = 48 << 20
"""Bytes of the file that is shared; not a whole number of blocks with what follows."""


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A directory on an empty btrfs, which can share blocks."""
    disk, place = tmp_path / "disk", tmp_path / "btrfs"
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", disk], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", disk, place], check=True, timeout=60)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True, timeout=60)


def layer_of(store: Store) -> FileTree:
    """Make a layer of a large file, one that ends within a block, and a small one."""
    noise = random.Random(1).randbytes(1 << 20)

    def fill(layer: LayerWriter) -> None:
        for name, size in ((b"large", SIZE), (b"odd", 5001), (b"small", 7)):
            inode = Inode(tree.regular_file(b"").mode)
            layer.add_content(inode, io.BytesIO((noise * (size // len(noise) + 1))[:size]), size)
            layer.tree[name] = inode

    return store.make("layer", "0" * 64, fill, lambda: None).tree


def write(content: FileTree, path: Path) -> bytes:
    with path.open("wb") as image:
        write_filesystem(plan_filesystem(content, Ext4Options()), image.fileno())
        os.fsync(image.fileno())
    return path.read_bytes()


def used(place: Path) -> int:
    """Return how many bytes of a file system are in use."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        subprocess.run(["sync", "--file-system", place], check=True, timeout=60)
        state = os.fstatvfs(descriptor)
    finally:
        os.close(descriptor)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def test_data_is_shared_and_the_same(btrfs: Path, tmp_path: Path) -> None:
    with Store(btrfs / "cache") as store:
        content = layer_of(store)
        before = used(btrfs)
        shared = write(content, btrfs / "image")
        assert used(btrfs) - before < SIZE // 4
        assert len(shared) > SIZE
        assert shared == write(content, tmp_path / "image"), "another file system gets other bytes"


def test_shared_data_is_checked(btrfs: Path) -> None:
    with Store(btrfs / "cache") as store:
        content = layer_of(store)
        [blob] = (btrfs / "cache").glob("layers/*/blob")
        with blob.open("r+b") as file:
            file.seek(SIZE // 2)
            file.write(b"?")
        with pytest.raises(LayerCorrupt):
            write(content, btrfs / "image")
