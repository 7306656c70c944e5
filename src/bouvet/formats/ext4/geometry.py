"""The dimensions of a file system: groups, inodes, and the places of its metadata.

The layout is one run from left to right. Thanks to flex_bg the groups' bitmaps and inode tables may
lie anywhere, so the data comes first, in the order it is read, and all metadata after it:

    [superblock | descriptors | reserved descriptors] [file data]
    [directories, symbolic links, extent nodes, attribute blocks]
    [block bitmaps] [inode bitmaps] [inode tables] [journal] [free]

Only the superblock's backups interrupt it.

Inodes a group: the customary 8192 would cost 2 MiB in each 128 MiB, which is 1.6 % of the image and
more than all of its overhead may be. So a group gets what the tree needs, an eighth more, and one for
each 16 KiB of free space (the customary ratio); at least 1024, because growth adds groups of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bouvet.errors import ImageTooSmall
from bouvet.formats.ext4.blocks import (
    BLOCK_SIZE,
    BLOCKS_PER_GROUP,
    Allocator,
    Run,
    blocks_for,
    descriptor_blocks,
    groups_for,
    has_backup,
    head_blocks,
)
from bouvet.formats.ext4.extents import Mapping, node_count, sequential

INODE_SIZE = 256
INODES_PER_BLOCK = BLOCK_SIZE // INODE_SIZE
MIN_INODES_PER_GROUP = 1024
MAX_INODES_PER_GROUP = 8 * BLOCK_SIZE
BYTES_PER_FREE_INODE = 16384


@dataclass(frozen=True, slots=True)
class Demand:
    """What a tree asks of the file system.

    Attributes:
        content_end: The block behind the content, for a given number of descriptor blocks.
        inodes: Inodes in use, the reserved ones included.
        journal_blocks: Size of the journal, 0 for none.
    """

    content_end: Callable[[int], int]
    inodes: int
    journal_blocks: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """The dimensions of a file system and where the groups' metadata lies.

    Attributes:
        blocks: Size in blocks.
        descriptors: Blocks of group descriptors in use.
        inodes_per_group: Inodes in each group.
        block_bitmaps: The block of each group's block bitmap.
        inode_bitmaps: The block of each group's inode bitmap.
        inode_tables: The blocks of each group's inode table.
        journal: The journal's extents.
        journal_nodes: The blocks of the journal's extent nodes.
        end: The block behind the last one in use, but for backups.
    """

    blocks: int
    descriptors: int
    inodes_per_group: int
    block_bitmaps: list[int]
    inode_bitmaps: list[int]
    inode_tables: list[Run]
    journal: list[Mapping]
    journal_nodes: list[int]
    end: int

    @property
    def groups(self) -> int:
        """The number of block groups."""
        return groups_for(self.blocks)


def smallest_geometry(demand: Demand, free: int) -> Geometry:
    """Return the smallest file system that meets the demand and has at least `free` bytes free.

    The number of groups decides how many blocks their metadata takes, and these how many groups there
    are: the loop ends at the first number that agrees with itself.
    """
    groups = groups_for(demand.content_end(1))
    while True:
        geometry = _place(demand, groups, free)
        if geometry is not None and geometry.groups <= groups:
            return geometry
        groups = max(groups + 1, geometry.groups if geometry else 0)


def exact_geometry(demand: Demand, blocks: int) -> Geometry:
    """Return a file system of `blocks` blocks, or a little less if the last group would be unusable.

    Raises:
        ImageTooSmall: The demand needs more; `needed` is the size in bytes that would do.
    """
    smallest = smallest_geometry(demand, 0)
    if smallest.blocks > blocks:
        needed = smallest.blocks * BLOCK_SIZE
        raise ImageTooSmall(
            f"the content needs {needed} bytes, {needed - blocks * BLOCK_SIZE} more than the image has",
            needed=needed,
            hint=f"set the size to {-(-needed >> 20)}M or more, or leave it out to get what is needed",
        )
    free = (blocks - smallest.blocks) * BLOCK_SIZE
    # More groups cost more metadata: at worst the smallest one's number of groups fits.
    for groups in range(groups_for(blocks), smallest.groups - 1, -1):
        for spare in (free, 0):
            geometry = _place(demand, groups, spare, min(blocks, groups * BLOCKS_PER_GROUP))
            if geometry is not None:
                return geometry
    raise AssertionError("the smallest geometry does not fit into its own size")


def _place(demand: Demand, groups: int, free: int, blocks: int | None = None) -> Geometry | None:
    """Place the metadata of `groups` groups.

    Args:
        demand: What must fit.
        groups: The number of groups.
        free: Free bytes: for them there are spare inodes, and blocks if the size is open.
        blocks: The size, None for as much as it takes (which may turn out as more groups).

    Returns:
        None if it does not fit.
    """
    inodes_per_group = _inodes_per_group(demand.inodes, groups, free)
    if inodes_per_group > MAX_INODES_PER_GROUP:
        return None
    descriptors = descriptor_blocks(groups)
    allocator = Allocator(descriptors, demand.content_end(descriptors))
    block_bitmaps = allocator.take_blocks(groups)
    inode_bitmaps = allocator.take_blocks(groups)
    table_blocks = inodes_per_group // INODES_PER_BLOCK
    inode_tables = [allocator.take_contiguous(table_blocks) for _ in range(groups)]
    journal = sequential(allocator.take(demand.journal_blocks))
    journal_nodes = allocator.take_blocks(node_count(len(journal)))
    end = allocator.position
    # The last group must hold at least its own backup and one block.
    last = groups - 1
    least = last * BLOCKS_PER_GROUP + (head_blocks(descriptors) if has_backup(last) else 0) + 1
    if blocks is None:
        allocator.take(max(blocks_for(free) - allocator.gaps, 0))
        blocks = max(allocator.position, least)
    elif blocks < max(end, least):
        return None
    return Geometry(
        blocks, descriptors, inodes_per_group, block_bitmaps, inode_bitmaps, inode_tables, journal,
        journal_nodes, end,
    )  # fmt: skip


def _inodes_per_group(inodes: int, groups: int, free: int) -> int:
    """Return how many inodes each group has: a multiple of those in a block, hence of eight."""
    wanted = inodes + inodes // 8 + free // BYTES_PER_FREE_INODE
    wanted = max(-(-wanted // groups), MIN_INODES_PER_GROUP)
    return -(-wanted // INODES_PER_BLOCK) * INODES_PER_BLOCK
