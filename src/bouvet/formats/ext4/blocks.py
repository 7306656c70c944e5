"""Blocks, block groups, superblock backups, and the allocator that walks around them.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/blockgroup.rst and super.rst
("sparse_super").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BLOCK_SIZE = 4096
BLOCKS_PER_GROUP = 8 * BLOCK_SIZE
DESCRIPTOR_SIZE = 64
RESERVED_DESCRIPTOR_BLOCKS = 16
"""Room for growth: each block describes 64 groups of 128 MiB, so 16 of them add 128 GiB."""
SECTORS_PER_BLOCK = BLOCK_SIZE // 512


class Run(NamedTuple):
    """Neighbouring blocks: the first one's number and how many."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The number of the block after the last."""
        return self.start + self.length


def blocks_for(size: int) -> int:
    """Return how many blocks hold `size` bytes."""
    return -(-size // BLOCK_SIZE)


def groups_for(blocks: int) -> int:
    """Return how many groups `blocks` blocks make; the last may be shorter."""
    return -(-blocks // BLOCKS_PER_GROUP)


def has_backup(group: int) -> bool:
    """Return whether a group begins with a superblock and descriptors: 0, 1 and powers of 3, 5, 7."""
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def backup_groups(groups: int) -> list[int]:
    """Return those of the first `groups` groups that hold a backup, ascending; the first is no backup."""
    powers = {base**exponent for base in (3, 5, 7) for exponent in range(1, groups.bit_length() + 1)}
    return sorted(group for group in {1, *powers} if group < groups)


def descriptor_blocks(groups: int) -> int:
    """Return how many blocks the descriptors of `groups` groups take."""
    return blocks_for(groups * DESCRIPTOR_SIZE)


def head_blocks(descriptors: int) -> int:
    """Return the blocks of a superblock with `descriptors` descriptor blocks and the reserved ones."""
    return 1 + descriptors + RESERVED_DESCRIPTOR_BLOCKS


def head_runs(groups: int, descriptors: int) -> Iterator[Run]:
    """Yield the blocks that the superblock, its backups and their descriptors take."""
    for group in (0, *backup_groups(groups)):
        yield Run(group * BLOCKS_PER_GROUP, head_blocks(descriptors))


class Allocator:
    """Hands out blocks from left to right, around the superblock backups.

    Args:
        descriptors: Descriptor blocks in use, which is what a backup's size depends on.
        position: The first block to hand out; by default the one behind the first group's head.

    Attributes:
        position: The block behind the last one handed out.
        gaps: How many blocks before it were left free.
    """

    def __init__(self, descriptors: int, position: int | None = None) -> None:
        self._head = head_blocks(descriptors)
        self.position = self._head if position is None else position
        self.gaps = 0
        self._limit = self._next_backup(self.position)

    def take(self, count: int) -> list[Run]:
        """Take `count` blocks in as few runs as the backups allow."""
        runs = []
        while count:
            if self.position == self._limit:
                self._skip()
            run = Run(self.position, min(count, self._limit - self.position))
            runs.append(run)
            self.position += run.length
            count -= run.length
        return runs

    def take_blocks(self, count: int) -> list[int]:
        """Take `count` blocks and return their numbers."""
        return [number for run in self.take(count) for number in range(run.start, run.end)]

    def take_contiguous(self, count: int) -> Run:
        """Take `count` neighbouring blocks, leaving a gap before a backup that would split them."""
        while self._limit - self.position < count:
            self.gaps += self._limit - self.position
            self.position = self._limit
            self._skip()
        run = Run(self.position, count)
        self.position += count
        return run

    def _skip(self) -> None:
        self.position += self._head
        self._limit = self._next_backup(self.position)

    @staticmethod
    def _next_backup(position: int) -> int:
        """Return the first block, from `position` on, of a group that begins with a backup."""
        group = max(groups_for(position), 1)
        while not has_backup(group):
            group += 1
        return group * BLOCKS_PER_GROUP
