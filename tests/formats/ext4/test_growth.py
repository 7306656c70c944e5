"""An image of exactly the needed size must be able to grow: offline, and online as the guest does it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bouvet.formats.ext4 import Ext4Options, Ext4Reader
from bouvet.formats.tree import FileTree, regular_file
from tests.formats.ext4 import oracles, trees

GROUP = 128 << 20


def small() -> FileTree:
    return trees.file_sizes() | trees.attributes()


def several_groups() -> FileTree:
    """Content that reaches beyond the backups of the groups 1 and 3."""
    return trees.file_sizes() | {b"large": regular_file(trees.noise(1 << 20) * 400)}


def check_grown(image: Path, tree: FileTree, size: int) -> None:
    oracles.check_fsck(image)
    oracles.check_reader(image, tree)
    with Ext4Reader(image) as reader:
        assert reader.facts.size == size


@pytest.mark.needs_tool("e2fsck", "resize2fs")
@pytest.mark.parametrize("size", [GROUP, 5 * GROUP + (1 << 20), 70 * GROUP])
def test_it_grows_offline(tmp_path: Path, size: int) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, small())
    os.truncate(image, size)
    oracles.run("resize2fs", image)
    check_grown(image, small(), size)


@pytest.mark.needs_kernel("resizing")
@pytest.mark.needs_root
@pytest.mark.needs_tool("e2fsck", "resize2fs", "losetup", "findmnt", "mount", "umount")
@pytest.mark.parametrize(
    ("tree", "size"),
    [
        (small(), GROUP),
        # Beyond 64 groups the descriptors need the first of the reserved blocks, beyond 128 the second.
        (small(), 140 * GROUP),
        (several_groups(), 20 * GROUP),
    ],
    ids=["to one group", "to 140 groups", "from four groups to 20"],
)
@pytest.mark.parametrize("journal_size", [0, 4 << 20])
def test_it_grows_online(tmp_path: Path, tree: FileTree, size: int, journal_size: int) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, tree, Ext4Options(journal_size=journal_size))
    with oracles.mounted(image, read_only=False) as point:
        os.truncate(image, size)
        device = oracles.run("findmnt", "-no", "SOURCE", point).decode().strip()
        oracles.run("losetup", "-c", device)
        oracles.run("resize2fs", device)
        (point / "written after growth").write_bytes(trees.noise(5 << 20))
        grown = os.statvfs(point)
        assert grown.f_blocks * grown.f_frsize > size * 0.9
    oracles.check_fsck(image)
    with Ext4Reader(image) as reader:
        found = oracles.summarize(reader.tree())
        assert reader.read(b"written after growth") == trees.noise(5 << 20)
        assert reader.facts.size == size
    expected = oracles.summarize(oracles.with_additions(tree))
    # The new file changed the root's time, and is itself new.
    for path in (b"", b"written after growth"):
        expected.pop(path, None)
        found.pop(path)
    oracles.check_tree(expected, found)
