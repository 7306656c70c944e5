"""Sizes: exactly what is needed, a given size, free space, overhead, and equal bytes for equal input."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from pathlib import Path

import pytest

from bouvet.errors import ImageTooSmall, SpecError
from bouvet.formats.ext4 import Ext4Options, Ext4Reader, plan_filesystem
from bouvet.formats.ext4.blocks import BLOCK_SIZE, BLOCKS_PER_GROUP, Allocator, backup_groups, has_backup
from bouvet.formats.ext4.groups import _set_bits
from bouvet.formats.ext4.plan import MAX_JOURNAL
from bouvet.formats.tree import FileTree, Inode, MemorySource, Segment, regular_file
from tests.formats.ext4 import oracles, trees

MEBIBYTE = 1 << 20
GROUP = BLOCKS_PER_GROUP * BLOCK_SIZE


class EndlessSource:
    """A source of any length, for plans that are not written."""

    identity: str | None = None

    def read(self, offset: int, length: int) -> bytes:
        raise AssertionError("a plan reads no content")

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        raise AssertionError("a plan reads no content")


def file_of(blocks: int) -> FileTree:
    """Return a tree of one file; most of its content is never read."""
    size = blocks * BLOCK_SIZE
    return {b"f": Inode(0o100644, size=size, segments=(Segment(0, size, EndlessSource(), 0),))}


def test_backups_are_where_sparse_super_puts_them() -> None:
    powers = {1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625, 729}
    assert [group for group in range(1000) if has_backup(group)] == sorted({0} | powers)
    assert backup_groups(1000) == sorted(powers)
    assert backup_groups(1) == []
    assert backup_groups(3) == [1]
    assert backup_groups(4) == [1, 3]


def test_the_allocator_goes_around_backups() -> None:
    allocator = Allocator(1, BLOCKS_PER_GROUP - 2)
    assert allocator.take(4) == [(BLOCKS_PER_GROUP - 2, 2), (BLOCKS_PER_GROUP + 18, 2)]
    allocator = Allocator(1, BLOCKS_PER_GROUP - 2)
    assert allocator.take_contiguous(4) == (BLOCKS_PER_GROUP + 18, 4)
    allocator = Allocator(1, BLOCKS_PER_GROUP - 2)
    assert allocator.take(2) == [(BLOCKS_PER_GROUP - 2, 2)]
    # Nothing more was asked for, so the backup is not a part of the size.
    assert allocator.position == BLOCKS_PER_GROUP


@pytest.mark.parametrize("start", range(10))
@pytest.mark.parametrize("length", [0, 1, 5, 8, 9, 23, 64])
def test_bits_are_set(start: int, length: int) -> None:
    bits = bytearray(16)
    _set_bits(bits, start, start + length)
    assert int.from_bytes(bits, "little") == ((1 << length) - 1) << start


def test_a_small_image_is_small() -> None:
    """The head with the blocks reserved for growth, two directories, and 1024 inodes: 0.4 MB."""
    assert plan_filesystem({}, Ext4Options(journal_size=0)).size == 87 * BLOCK_SIZE
    assert plan_filesystem({}, Ext4Options()).size == (87 + 1024) * BLOCK_SIZE


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize("journal_size", [0, 4 * MEBIBYTE, 300 * MEBIBYTE, MAX_JOURNAL])
def test_journals(tmp_path: Path, journal_size: int) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, trees.file_sizes(), Ext4Options(journal_size=journal_size))
    oracles.check_fsck(image)
    with Ext4Reader(image) as reader:
        assert ("has_journal" in reader.facts.features) is bool(journal_size)
    if journal_size:
        shown = oracles.run("dumpe2fs", "-h", image)
        assert b"Total journal blocks:     %d\n" % (journal_size // BLOCK_SIZE) in shown
    # The journal is a hole.
    assert image.stat().st_blocks * 512 < 4 * MEBIBYTE


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize("free", [0, 1, 4096, 10 * MEBIBYTE, 2 * GROUP, 70 * GROUP])
def test_at_least_what_is_asked_for_is_free(tmp_path: Path, free: int) -> None:
    image = tmp_path / "image"
    plan = oracles.make_image(image, trees.file_sizes(), Ext4Options(free=free))
    oracles.check_fsck(image)
    with Ext4Reader(image) as reader:
        assert free <= reader.facts.free_blocks * BLOCK_SIZE == plan.free_bytes < free + BLOCK_SIZE
        # As mke2fs has it: an inode for each 16 KiB of free space.
        assert reader.facts.free_inodes == plan.free_inodes >= free // 16384


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize(
    "size",
    [
        8 * MEBIBYTE, 8 * MEBIBYTE + 1, 8 * MEBIBYTE - 1, GROUP, 2500 * MEBIBYTE,
        # A last group that is too short for its own backup is left out of the file system.
        GROUP + BLOCK_SIZE, 3 * GROUP + 17 * BLOCK_SIZE, 3 * GROUP + 18 * BLOCK_SIZE,
        3 * GROUP + 19 * BLOCK_SIZE, 2 * GROUP + BLOCK_SIZE,
    ],
)  # fmt: skip
def test_a_given_size_is_the_files_size(tmp_path: Path, size: int) -> None:
    image, tree = tmp_path / "image", trees.file_sizes()
    oracles.make_image(image, tree, Ext4Options(size=size))
    assert image.stat().st_size == size
    oracles.check_fsck(image)
    oracles.check_reader(image, tree)
    with Ext4Reader(image) as reader:
        assert size - 19 * BLOCK_SIZE < reader.facts.size <= size


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize(
    "make_tree", [trees.empty, trees.large_files, trees.many_directories, trees.attributes]
)
def test_the_needed_size_is_exact(tmp_path: Path, make_tree: trees.MakeTree) -> None:
    tree = make_tree()
    with pytest.raises(ImageTooSmall) as caught:
        plan_filesystem(tree, Ext4Options(size=1 * MEBIBYTE))
    needed = caught.value.needed
    assert caught.value.hint is not None
    assert needed == plan_filesystem(tree, Ext4Options()).size
    with pytest.raises(ImageTooSmall) as caught:
        plan_filesystem(tree, Ext4Options(size=needed - 1))
    assert caught.value.needed == needed
    image = tmp_path / "image"
    oracles.make_image(image, tree, Ext4Options(size=needed))
    assert image.stat().st_size == needed
    oracles.check_fsck(image)
    oracles.check_reader(image, tree)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 9, 10, 25, 26, 64, 65, 128])
def test_every_size_from_the_needed_one_on_works_around_group_boundaries(groups: int) -> None:
    for distance in (-1200, -100, -60, -20, -3, 0, 1, 40):
        tree = file_of(groups * BLOCKS_PER_GROUP + distance)
        needed = plan_filesystem(tree, Ext4Options()).size
        with pytest.raises(ImageTooSmall):
            plan_filesystem(tree, Ext4Options(size=needed - BLOCK_SIZE))
        for more in (0, 1, 18, 19, 100, 2000, BLOCKS_PER_GROUP):
            plan = plan_filesystem(tree, Ext4Options(size=needed + more * BLOCK_SIZE))
            assert plan.size == needed + more * BLOCK_SIZE
            assert plan.used[-1].end <= plan.geometry.blocks


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize("blocks", [31500, 31600, 31650, 31700, 32500, 32600, 32700, 32750])
def test_images_whose_end_is_near_a_backup(tmp_path: Path, blocks: int) -> None:
    image = tmp_path / "image"
    content = MemorySource(bytes(blocks * BLOCK_SIZE))
    size = blocks * BLOCK_SIZE
    tree = {b"f": Inode(0o100644, size=size, segments=(Segment(0, size, content, 0),))}
    oracles.make_image(image, tree, Ext4Options(journal_size=0))
    oracles.check_fsck(image)


def test_the_overhead_is_small() -> None:
    """A tree of the devbox's kind: 22,900 entries, a tenth of them directories, 1.5 GB."""
    tree: FileTree = {}
    source = EndlessSource()
    offset = 0
    for index in range(20_600):
        blocks = 1 + index * index * 34 // 20_600**2 * (1 if index % 40 else 20)
        size = blocks * BLOCK_SIZE - 100
        segments = (Segment(0, size, source, offset),)
        tree[b"d%03d/sub%d/file%d" % (index % 300, index % 7, index)] = Inode(
            0o100644, size=size, segments=segments
        )
        offset += blocks * BLOCK_SIZE
    plan = plan_filesystem(tree, Ext4Options())
    assert plan.data_bytes > 1_400_000_000
    assert (plan.size - plan.data_bytes) / plan.data_bytes < 0.015
    # Neighbours in the source are copied together: only backups and the size of a copy part them.
    assert len(plan.copies) < 60


def test_equal_input_gives_equal_bytes_in_whatever_order(tmp_path: Path) -> None:
    def digest(name: str, tree: FileTree, options: Ext4Options) -> str:
        oracles.make_image(tmp_path / name, tree, options)
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    options = Ext4Options(label="equal", timestamp=1_700_000_000, free=MEBIBYTE)

    def tree() -> FileTree:
        return trees.odd_names() | trees.attributes() | trees.many_directories()

    first = digest("first", tree(), options)
    assert digest("again", tree(), options) == first
    assert digest("reversed", dict(reversed(tree().items())), options) == first
    for name, other in (
        ("label", dataclasses.replace(options, label="other")),
        ("seed", dataclasses.replace(options, hash_seed=uuid.UUID(int=5))),
        ("time", dataclasses.replace(options, timestamp=1_700_000_001)),
    ):
        assert digest(name, tree(), other) != first


@pytest.mark.needs_tool("dumpe2fs")
def test_names_and_times_are_in_the_superblock(tmp_path: Path) -> None:
    image = tmp_path / "image"
    identity = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")
    seed = uuid.UUID("a0b1c2d3-e4f5-0617-2839-4a5b6c7d8e9f")
    options = Ext4Options(label="sixteen bytes ü", uuid=identity, hash_seed=seed, timestamp=2**32 + 86400)
    oracles.make_image(image, {}, options)
    with Ext4Reader(image) as reader:
        assert (reader.facts.label, reader.facts.uuid) == ("sixteen bytes ü", identity)
        assert reader.facts.created == 2**32 + 86400
    shown = oracles.run("dumpe2fs", "-h", image).decode()
    assert "Filesystem volume name:   sixteen bytes ü\n" in shown
    assert f"Filesystem UUID:          {identity}\n" in shown
    assert f"Directory Hash Seed:      {seed}\n" in shown
    features = "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super "
    features += "large_file dir_nlink extra_isize metadata_csum"
    assert f"Filesystem features:      {features}\n" in shown
    assert "Reserved GDT blocks:      16\n" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": "seventeen bytes!!"}, {"label": "nul\0"}, {"size": 0}, {"size": 1 << 43}, {"free": -1},
        {"journal_size": 4095}, {"journal_size": 2 * MEBIBYTE}, {"journal_size": 2 << 30},
        {"journal_size": 4 * MEBIBYTE + 1}, {"timestamp": -1}, {"timestamp": 1 << 34},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_options_are_refused(wrong: dict[str, str | int]) -> None:
    with pytest.raises(SpecError):
        Ext4Options(**wrong)  # type: ignore[arg-type]  # any option


def test_a_plan_reads_nothing() -> None:
    plan = plan_filesystem({b"f": regular_file(b"x"), **file_of(1000)}, Ext4Options())
    assert plan.data_bytes == 1000 * BLOCK_SIZE
