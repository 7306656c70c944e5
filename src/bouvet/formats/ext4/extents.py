"""Extent trees: which blocks of the file system hold which blocks of a file.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/ifork.rst ("Extent Tree").
The root lies in the inode and has room for four entries; every other node fills a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
ROOT_SIZE = 60


class Mapping(NamedTuple):
    """Blocks of a file that lie together: first block in the file, in the file system, and how many."""

    logical: int
    physical: int
    length: int


def normalize(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return the mappings in the file's order, joined where possible and split where too long."""
    joined: list[Mapping] = []
    for mapping in sorted(mappings):
        logical, physical, length = mapping
        if joined:
            last = joined[-1]
            if last.logical + last.length == logical and last.physical + last.length == physical:
                joined[-1] = Mapping(last.logical, last.physical, last.length + length)
                continue
        joined.append(mapping)
    return [
        Mapping(logical + offset, physical + offset, min(length - offset, MAX_EXTENT_BLOCKS))
        for logical, physical, length in joined
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
    extents: list[Mapping], node_blocks: list[int], owner: int
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


def _node(entries: list[tuple[int, bytes]], maximum: int, depth: int) -> bytes:
    header = EXTENT_HEADER.pack(*ExtentHeader(EXTENT_MAGIC, len(entries), maximum, depth))
    return (header + b"".join(packed for _, packed in entries)).ljust((maximum + 1) * EXTENT.size, b"\0")


def _node_block(entries: list[tuple[int, bytes]], depth: int, owner: int) -> bytes:
    node = _node(entries, NODE_ENTRIES, depth)
    return (node + WORD.pack(extent_block_checksum(owner, node))).ljust(BLOCK_SIZE, b"\0")
