"""Extent trees: which blocks of the file system hold which blocks of a file.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/ifork.rst ("Extent Tree").
The root lies in the inode and has room for four entries; every other node fills a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE, Run
from bouvet.formats.ext4.checksum import extent_block_checksum
from bouvet.formats.ext4.structs import (
    EXTENT,
    EXTENT_HEADER,
    EXTENT_INDEX,
    EXTENT_MAGIC,
    WORD,
    Extent,
    ExtentHeader,
    ExtentIndex,
)

MAX_EXTENT_BLOCKS = 32768
"""Longer than this would mean an unwritten extent, which reads as zeros."""
ROOT_ENTRIES = 4
NODE_ENTRIES = (BLOCK_SIZE - EXTENT_HEADER.size - WORD.size) // EXTENT.size
MAX_DEPTH = 5
"""No tree needs more: five levels reach more blocks than a file can have."""
MAX_READ_EXTENTS = 1 << 20
"""The most extents of one file that are read: a file more scattered than this is no honest one."""


class Mapping(NamedTuple):
    """Blocks of a file that lie together: first block in the file, in the file system, and how many."""

    logical: int
    physical: int
    length: int


def join(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return the mappings in the file's order, neighbours as one."""
    joined: list[Mapping] = []
    for mapping in sorted(mappings):
        logical, physical, length = mapping
        if joined:
            last = joined[-1]
            if last.logical + last.length == logical and last.physical + last.length == physical:
                joined[-1] = Mapping(last.logical, last.physical, last.length + length)
                continue
        joined.append(mapping)
    return joined


def normalize(mappings: list[Mapping]) -> list[Mapping]:
    """Return the extents for these mappings: joined where possible, split where too long."""
    if len(mappings) == 1 and mappings[0].length <= MAX_EXTENT_BLOCKS:
        return mappings
    return [
        Mapping(logical + offset, physical + offset, min(length - offset, MAX_EXTENT_BLOCKS))
        for logical, physical, length in join(mappings)
        for offset in range(0, length, MAX_EXTENT_BLOCKS)
    ]


def sequential(runs: Iterable[Run]) -> list[Mapping]:
    """Return the extents of a file that fills the runs one after the other."""
    mappings = []
    logical = 0
    for run in runs:
        mappings.append(Mapping(logical, run.start, run.length))
        logical += run.length
    return normalize(mappings)


def node_count(entries: int) -> int:
    """Return how many blocks the tree of `entries` extents takes outside of the inode."""
    total = 0
    while entries > ROOT_ENTRIES:
        entries = -(-entries // NODE_ENTRIES)
        total += entries
    return total


def encode_tree(
    extents: Sequence[Mapping], node_blocks: Sequence[int], owner: int
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the root (60 bytes) and the other nodes, each with its block's number.

    Args:
        extents: The file's extents as `normalize` returns them.
        node_blocks: As many free blocks as `node_count` says.
        owner: The checksum seed of the inode.
    """
    entries = [
        (logical, EXTENT.pack(*Extent(logical, length, physical >> 32, physical & 0xFFFFFFFF)))
        for logical, physical, length in extents
    ]
    depth = 0
    nodes: list[tuple[int, bytes]] = []
    free = iter(node_blocks)
    while len(entries) > ROOT_ENTRIES:
        parents = []
        for first in range(0, len(entries), NODE_ENTRIES):
            members = entries[first : first + NODE_ENTRIES]
            number = next(free)
            nodes.append((number, _node_block(members, depth, owner)))
            index = ExtentIndex(members[0][0], number & 0xFFFFFFFF, number >> 32)
            parents.append((members[0][0], EXTENT_INDEX.pack(*index)))
        entries = parents
        depth += 1
    return _node(entries, ROOT_ENTRIES, depth), nodes


class TreeReader:
    """Reads extent trees that may be damaged or hostile.

    Args:
        read_node: Returns a node's block, given its number and the number of the inode that claims it.
        owner: The checksum seed of the inode, None where there are no checksums.
        inode: The inode's number.
        blocks: The file system's size in blocks.
    """

    def __init__(
        self, read_node: Callable[[int, int], bytes], owner: int | None, inode: int, blocks: int
    ) -> None:
        self._read_node = read_node
        self._owner = owner
        self._inode = inode
        self._blocks = blocks
        self._next = 0
        self._found: list[Mapping] = []

    def read(self, root: bytes) -> list[Mapping]:
        """Return the written extents of a tree, joined, ascending, inside of the file system.

        Args:
            root: The root's 60 bytes.

        Raises:
            FormatError: The tree is damaged; or it has more than `MAX_READ_EXTENTS` extents.
        """
        self._read(root, None)
        return join(self._found)

    def _read(self, node: bytes, depth: int | None) -> None:
        """Read a node; `depth` is what its parent says, and falls with every level."""
        header = ExtentHeader(*EXTENT_HEADER.unpack_from(node))
        room = len(node) // EXTENT.size - 1
        depth_fits = header.depth <= MAX_DEPTH if depth is None else header.depth == depth
        if header.magic != EXTENT_MAGIC or not header.entries <= header.maximum <= room or not depth_fits:
            raise self._damaged()
        if depth is not None and self._owner is not None:
            end = (header.maximum + 1) * EXTENT.size
            (stored,) = WORD.unpack_from(node, end)
            if extent_block_checksum(self._owner, node[:end]) != stored:
                raise self._damaged()
        entries = node[EXTENT_HEADER.size : (header.entries + 1) * EXTENT.size]
        if header.depth:
            for fields in EXTENT_INDEX.iter_unpack(entries):
                index = ExtentIndex(*fields)
                number = index.leaf_lo | index.leaf_hi << 32
                self._read(self._read_node(number, self._inode), header.depth - 1)
        else:
            for fields in EXTENT.iter_unpack(entries):
                self._add(Extent(*fields))

    def _add(self, extent: Extent) -> None:
        unwritten = extent.length > MAX_EXTENT_BLOCKS
        length = extent.length - MAX_EXTENT_BLOCKS if unwritten else extent.length
        start = extent.physical_lo | extent.physical_hi << 32
        # Ascending order also means that no leaf is met twice, so that the work is bounded.
        if extent.logical < self._next or not length or start + length > self._blocks or not start:
            raise self._damaged()
        self._next = extent.logical + length
        if not unwritten:
            self._found.append(Mapping(extent.logical, start, length))
            if len(self._found) > MAX_READ_EXTENTS:
                raise FormatError(f"inode {self._inode} has more than {MAX_READ_EXTENTS} extents")

    def _damaged(self) -> FormatError:
        return FormatError(f"the extents of inode {self._inode} are damaged")


def _node(entries: list[tuple[int, bytes]], maximum: int, depth: int) -> bytes:
    header = EXTENT_HEADER.pack(*ExtentHeader(EXTENT_MAGIC, len(entries), maximum, depth))
    return (header + b"".join(packed for _, packed in entries)).ljust((maximum + 1) * EXTENT.size, b"\0")


def _node_block(entries: list[tuple[int, bytes]], depth: int, owner: int) -> bytes:
    node = _node(entries, NODE_ENTRIES, depth)
    return (node + WORD.pack(extent_block_checksum(owner, node))).ljust(BLOCK_SIZE, b"\0")
