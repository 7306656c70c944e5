"""An oracle that cannot fail proves nothing: each is given a corrupted image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.formats.ext4 import Ext4Plan, Ext4Reader
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.tree import FileTree, MemorySource, directory, regular_file, symlink
from tests.formats.ext4 import oracles, trees

SOURCE = MemorySource(trees.noise(6 * BLOCK_SIZE))


def sample() -> FileTree:
    tree: FileTree = {
        b"file": regular_file(trees.noise(10_000)),
        b"scattered": trees.scattered(SOURCE, range(0, 12, 2), 12 * BLOCK_SIZE),
        b"attributes": trees.with_xattrs(regular_file(b""), user__x=b"v" * 1000),
        b"directory": directory(),
        b"link": symlink(b"t" * 100),
    }
    return tree | {b"names/%03d" % index + b"n" * 40: regular_file(b"") for index in range(200)}


def block_of(plan: Ext4Plan, path: bytes, block: int = 0) -> int:
    """Return the offset of a block of a file or directory."""
    (node,) = [node for node in plan.nodes if node.path == path]
    return (node.extents[0].physical + block) * BLOCK_SIZE


def inode_of(plan: Ext4Plan, path: bytes) -> int:
    (node,) = [node for node in plan.nodes if node.path == path]
    return plan.geometry.inode_tables[0].start * BLOCK_SIZE + (node.number - 1) * 256


def xattr_block(plan: Ext4Plan) -> int:
    return next(node.xattr_block for node in plan.nodes if node.xattr_block) * BLOCK_SIZE


def extent_node(plan: Ext4Plan) -> int:
    return next(node.extent_nodes[0] for node in plan.nodes if node.extent_nodes) * BLOCK_SIZE


# Where one flipped bit damages each kind of metadata that is read on the way to a file.
METADATA: dict[str, Callable[[Ext4Plan], int]] = {
    "superblock": lambda plan: 1024 + 0x78,
    "group descriptor": lambda plan: BLOCK_SIZE + 0x10,
    "root inode": lambda plan: plan.geometry.inode_tables[0].start * BLOCK_SIZE + 256 + 2,
    "inode": lambda plan: inode_of(plan, b"file") + 0x10,
    "inode attribute area": lambda plan: inode_of(plan, b"file") + 0xF0,
    "directory": lambda plan: block_of(plan, b"") + 8,
    "hash tree root": lambda plan: block_of(plan, b"names") + 0x28,
    "hash tree leaf": lambda plan: block_of(plan, b"names", 1) + 16,
    "extent node": lambda plan: extent_node(plan) + 20,
    "attribute block": lambda plan: xattr_block(plan) + 0x22,
}
# What only e2fsck reads.
BOOKKEEPING: dict[str, Callable[[Ext4Plan], int]] = {
    "block bitmap": lambda plan: plan.geometry.block_bitmaps[0] * BLOCK_SIZE + 3,
    "inode bitmap": lambda plan: plan.geometry.inode_bitmaps[0] * BLOCK_SIZE + 1,
    "resize block": lambda plan: plan.resize_block * BLOCK_SIZE + 8,
    "journal": lambda plan: plan.geometry.journal[0].physical * BLOCK_SIZE + 0x14,
    "journal inode": lambda plan: plan.geometry.inode_tables[0].start * BLOCK_SIZE + 7 * 256 + 0x20,
}


def flip(image: Path, offset: int) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        (value,) = file.read(1)
        file.seek(offset)
        file.write(bytes([value ^ 0x04]))


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize("place", [*METADATA, *BOOKKEEPING])
def test_e2fsck_fails_on_a_flipped_bit(tmp_path: Path, place: str) -> None:
    image = tmp_path / "image"
    plan = oracles.make_image(image, sample())
    oracles.check_fsck(image)
    flip(image, (METADATA | BOOKKEEPING)[place](plan))
    with pytest.raises(oracles.OracleError):
        oracles.check_fsck(image)


@pytest.mark.parametrize("place", METADATA)
def test_the_reader_fails_on_a_flipped_bit(tmp_path: Path, place: str) -> None:
    image = tmp_path / "image"
    plan = oracles.make_image(image, sample())
    oracles.check_reader(image, sample())
    flip(image, METADATA[place](plan))
    with pytest.raises(FormatError), Ext4Reader(image) as reader:
        reader.tree()


def test_the_reader_comparison_fails_on_changed_content(tmp_path: Path) -> None:
    image = tmp_path / "image"
    plan = oracles.make_image(image, sample())
    flip(image, block_of(plan, b"file") + 5000)
    with pytest.raises(oracles.OracleError, match="file"):
        oracles.check_reader(image, sample())


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_the_kernel_comparison_fails_on_changed_content(tmp_path: Path) -> None:
    image = tmp_path / "image"
    plan = oracles.make_image(image, sample())
    oracles.check_kernel(image, sample())
    flip(image, block_of(plan, b"file") + 5000)
    with pytest.raises(oracles.OracleError, match="file"):
        oracles.check_kernel(image, sample())


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o100600}, {"uid": 1}, {"gid": 1}, {"mtime": 1}, {"size": 10_001},
        {"xattrs": {b"user.a": b"b"}}, {"segments": ()},
    ],
    ids=str,
)  # fmt: skip
def test_the_comparison_fails_on_every_attribute(tmp_path: Path, change: dict[str, object]) -> None:
    image = tmp_path / "image"
    tree = sample()
    oracles.make_image(image, tree)
    tree[b"file"] = dataclasses.replace(tree[b"file"], **change)  # type: ignore[arg-type]  # any attribute
    with pytest.raises(oracles.OracleError, match="file"):
        oracles.check_reader(image, tree)


def test_the_comparison_fails_on_a_lost_or_added_name_and_a_broken_hard_link(tmp_path: Path) -> None:
    image = tmp_path / "image"
    tree = sample() | {b"second name": regular_file(b"linked")}
    tree[b"third name"] = tree[b"second name"]
    oracles.make_image(image, tree)
    oracles.check_reader(image, tree)
    for wrong in (
        {path: inode for path, inode in tree.items() if path != b"file"},
        tree | {b"more": regular_file(b"")},
        tree | {b"third name": regular_file(b"linked")},
    ):
        with pytest.raises(oracles.OracleError):
            oracles.check_reader(image, wrong)
