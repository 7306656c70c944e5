"""Directory blocks: linear ones, and hash trees for directories of more than one block.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/directory.rst. The hash is
"half MD4", a shortened MD4 (RFC 1320, section 3.4) over the name; names count as unsigned bytes, which
the superblock's flags must say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.checksum import directory_checksum, hash_tree_checksum
from bouvet.formats.ext4.structs import (
    DIRECTORY_ENTRY,
    DIRECTORY_TAIL,
    HASH_TREE_COUNT,
    HASH_TREE_ENTRY,
    HASH_TREE_INFO,
    WORD,
    DirectoryEntry,
    DirectoryTail,
    HashTreeCount,
    HashTreeEntry,
    HashTreeInfo,
)

MAX_NAME = 255
TYPE_DIRECTORY = 2
FILE_TYPES = {0o10: 1, 0o04: TYPE_DIRECTORY, 0o02: 3, 0o06: 4, 0o01: 5, 0o14: 6, 0o12: 7}
"""A directory entry's type by the upper four bits of the mode."""

LEAF_ROOM = BLOCK_SIZE - DIRECTORY_TAIL.size
_DOT_SIZE = DIRECTORY_ENTRY.size + 4
_TREE_TAIL_SIZE = 8
_ROOT_COUNT_OFFSET = 2 * _DOT_SIZE + HASH_TREE_INFO.size
_NODE_COUNT_OFFSET = DIRECTORY_ENTRY.size
ROOT_LIMIT = (BLOCK_SIZE - _ROOT_COUNT_OFFSET - _TREE_TAIL_SIZE) // HASH_TREE_ENTRY.size
NODE_LIMIT = (BLOCK_SIZE - _NODE_COUNT_OFFSET - _TREE_TAIL_SIZE) // HASH_TREE_ENTRY.size
MAX_LEAVES = ROOT_LIMIT * NODE_LIMIT
"""How many leaves a tree of two levels holds, the most without the feature large_dir."""

_MASK = 0xFFFFFFFF
_MD4_INITIAL = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_MD4_ROUND_2 = 0x5A827999
_MD4_ROUND_3 = 0x6ED9EBA1
_LARGEST_HASH = 0xFFFFFFFE
_WORDS = struct.Struct(">8I")


class Leaf(NamedTuple):
    """A block of names in a hash tree, and the smallest hash that leads to it."""

    hash: int
    names: list[bytes]


def entry_size(name: bytes) -> int:
    """Return the bytes that a directory entry of this name takes."""
    return DIRECTORY_ENTRY.size + -(-len(name) // 4) * 4


def plan_leaves(names: Sequence[bytes], seed: bytes) -> list[Leaf]:
    """Distribute a directory's names over the leaves of a hash tree.

    Args:
        names: The names, without `.` and `..`.
        seed: The file system's hash seed, 16 bytes.

    Returns:
        The leaves in the order of their hashes; none if everything fits into one linear block.
    """
    room = LEAF_ROOM - 2 * _DOT_SIZE
    for name in names:
        room -= entry_size(name)
        if room < 0:
            break
    else:
        return []
    leaves: list[Leaf] = []
    room = last = 0
    for hashed, name in sorted((hash_name(name, seed), name) for name in names):
        size = entry_size(name)
        if size > room:
            # The lowest bit says that names of this very hash begin in the leaf before.
            leaves.append(Leaf(hashed | (hashed == last and bool(leaves)), []))
            room = LEAF_ROOM
        leaves[-1].names.append(name)
        room -= size
        last = hashed
    return leaves


def block_count(leaves: Sequence[Leaf]) -> int:
    """Return how many blocks a directory with these leaves takes."""
    if not leaves:
        return 1
    return 1 + _inner_nodes(len(leaves)) + len(leaves)


def encode_directory(
    inode: int, parent: int, entries: dict[bytes, tuple[int, int]], leaves: Sequence[Leaf], owner: int
) -> bytes:
    """Return a directory's blocks.

    Args:
        inode: The directory's inode number.
        parent: Its parent's inode number.
        entries: Inode number and file type by name, without `.` and `..`.
        leaves: What `plan_leaves` said for these names.
        owner: The checksum seed of the directory's inode.
    """
    dots = [(b".", inode, TYPE_DIRECTORY), (b"..", parent, TYPE_DIRECTORY)]
    if not leaves:
        return _leaf([*dots, *((name, *entry) for name, entry in entries.items())], owner)
    index = _tree_index(inode, parent, leaves, owner)
    return b"".join(
        [*index, *(_leaf(((name, *entries[name]) for name in leaf.names), owner) for leaf in leaves)]
    )


def decode_block(
    block: bytes, owner: int | None, *, indexed: bool, first: bool
) -> Iterator[tuple[bytes, int]]:
    """Yield the names in a directory's block, each with its inode number, without `.` and `..`.

    Args:
        block: 4096 bytes.
        owner: The checksum seed of the directory's inode, None where there are no checksums.
        indexed: Whether the directory has a hash tree.
        first: Whether this is the directory's first block.

    Raises:
        FormatError: The block is damaged, or a name is not possible.
    """
    entry = DirectoryEntry(*DIRECTORY_ENTRY.unpack_from(block))
    if indexed and first:
        _check_tree_node(block, _ROOT_COUNT_OFFSET, owner)
        return
    if indexed and not entry.inode and entry.record_length == BLOCK_SIZE:
        _check_tree_node(block, _NODE_COUNT_OFFSET, owner)
        return
    if owner is not None:
        tail = DirectoryTail(*DIRECTORY_TAIL.unpack_from(block, LEAF_ROOM))
        if tail != DirectoryTail(checksum=directory_checksum(owner, block)):
            raise FormatError("a directory block's checksum is wrong")
    for name, number in _decode_entries(block):
        if number and name not in (b".", b".."):
            if not name or b"/" in name or b"\0" in name:
                raise FormatError(f"a directory entry has the impossible name {name!r}")
            yield name, number


def hash_name(name: bytes, seed: bytes) -> int:
    """Return the half-MD4 hash of a name, as the kernel does with unsigned bytes.

    Args:
        name: 1 to 255 bytes.
        seed: 16 bytes; all zeros stand for MD4's own initial state.
    """
    state = struct.unpack("<4I", seed) if any(seed) else _MD4_INITIAL
    for first in range(0, len(name), 32):
        state = _half_md4(state, _hash_words(name[first:]))
    hashed = state[1] & ~1
    # The largest value is the kernel's end-of-directory mark.
    return hashed if hashed != _LARGEST_HASH else _LARGEST_HASH - 2


def _hash_words(rest: bytes) -> tuple[int, ...]:
    """Return the next 32 bytes of a name as big-endian words, padded with the length of the rest."""
    length = len(rest)
    if length >= 32:
        return _WORDS.unpack_from(rest)
    pad = length.to_bytes(1, "big") * 4
    whole, odd = divmod(length, 4)
    words = rest[: 4 * whole]
    if odd:
        # A partial word holds its bytes in the low end, under the padding's bytes.
        words += pad[odd:] + rest[4 * whole :]
    return _WORDS.unpack(words + pad * ((32 - len(words)) // 4))


def _half_md4(state: tuple[int, ...], x: tuple[int, ...]) -> tuple[int, ...]:
    """Return the state after eight words: RFC 1320's three rounds, each over eight words only."""
    a, b, c, d = state
    for i in (0, 4):
        a = _rotate(a + (d ^ (b & (c ^ d))) + x[i], 3)
        d = _rotate(d + (c ^ (a & (b ^ c))) + x[i + 1], 7)
        c = _rotate(c + (b ^ (d & (a ^ b))) + x[i + 2], 11)
        b = _rotate(b + (a ^ (c & (d ^ a))) + x[i + 3], 19)
    for i in (1, 0):
        a = _rotate(a + ((b & c) + ((b ^ c) & d)) + x[i] + _MD4_ROUND_2, 3)
        d = _rotate(d + ((a & b) + ((a ^ b) & c)) + x[i + 2] + _MD4_ROUND_2, 5)
        c = _rotate(c + ((d & a) + ((d ^ a) & b)) + x[i + 4] + _MD4_ROUND_2, 9)
        b = _rotate(b + ((c & d) + ((c ^ d) & a)) + x[i + 6] + _MD4_ROUND_2, 13)
    for i in (3, 1):
        a = _rotate(a + (b ^ c ^ d) + x[i] + _MD4_ROUND_3, 3)
        d = _rotate(d + (a ^ b ^ c) + x[i + 4] + _MD4_ROUND_3, 9)
        c = _rotate(c + (d ^ a ^ b) + x[i - 1] + _MD4_ROUND_3, 11)
        b = _rotate(b + (c ^ d ^ a) + x[i + 3] + _MD4_ROUND_3, 15)
    return tuple((old + new) & _MASK for old, new in zip(state, (a, b, c, d), strict=True))


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (32 - bits)) & _MASK


def _decode_entries(block: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each entry's name and inode number, 0 for unused ones; the entries must fill the block."""
    offset = 0
    while offset <= BLOCK_SIZE - DIRECTORY_ENTRY.size:
        number, record_length, name_length, _ = DIRECTORY_ENTRY.unpack_from(block, offset)
        start = offset + DIRECTORY_ENTRY.size
        offset += record_length
        if record_length % 4 or start + name_length > offset or offset > BLOCK_SIZE:
            raise FormatError("a directory entry reaches out of its place")
        yield block[start : start + name_length], number
    if offset != BLOCK_SIZE:
        raise FormatError("a directory block's entries do not fill it")


def _check_tree_node(block: bytes, count_offset: int, owner: int | None) -> None:
    """Check a hash tree node's counts and checksum."""
    count = HashTreeCount(*HASH_TREE_COUNT.unpack_from(block, count_offset))
    tail = count_offset + count.limit * HASH_TREE_ENTRY.size
    if not 0 < count.used <= count.limit or tail > BLOCK_SIZE - (_TREE_TAIL_SIZE if owner is not None else 0):
        raise FormatError("a directory's hash tree is damaged")
    if owner is not None:
        (stored,) = WORD.unpack_from(block, tail + WORD.size)
        used = block[: count_offset + count.used * HASH_TREE_ENTRY.size]
        if hash_tree_checksum(owner, used, block[tail : tail + WORD.size]) != stored:
            raise FormatError("a directory's hash tree has a wrong checksum")


def _inner_nodes(leaves: int) -> int:
    return -(-leaves // NODE_LIMIT) if leaves > ROOT_LIMIT else 0


def _leaf(entries: Iterable[tuple[bytes, int, int]], owner: int) -> bytes:
    """Return a block of directory entries; the last one's length reaches to the checksum's tail."""
    pieces: list[bytes] = []
    used = 0
    name, number, file_type, size = b"", 0, 0, 0
    for name, number, file_type in entries:
        size = entry_size(name)
        used += size
        pieces.append(DIRECTORY_ENTRY.pack(number, size, len(name), file_type))
        pieces.append(name.ljust(size - DIRECTORY_ENTRY.size, b"\0"))
    last = DirectoryEntry(number, size + LEAF_ROOM - used, len(name), file_type)
    pieces[-2] = DIRECTORY_ENTRY.pack(*last)
    block = b"".join(pieces).ljust(BLOCK_SIZE, b"\0")
    tail = DirectoryTail(checksum=directory_checksum(owner, block))
    return block[:LEAF_ROOM] + DIRECTORY_TAIL.pack(*tail)


def _tree_index(inode: int, parent: int, leaves: Sequence[Leaf], owner: int) -> list[bytes]:
    """Return the hash tree's root and inner nodes."""
    inner = _inner_nodes(len(leaves))
    targets = [(leaf.hash, 1 + inner + position) for position, leaf in enumerate(leaves)]
    nodes = []
    if inner:
        fake = DIRECTORY_ENTRY.pack(*DirectoryEntry(0, BLOCK_SIZE, 0, 0))
        parents = []
        for position in range(inner):
            members = targets[position * NODE_LIMIT : (position + 1) * NODE_LIMIT]
            nodes.append(_tree_node(fake, members, NODE_LIMIT, owner))
            parents.append((members[0][0], 1 + position))
        targets = parents
    dot = DIRECTORY_ENTRY.pack(*DirectoryEntry(inode, _DOT_SIZE, 1, TYPE_DIRECTORY)) + b".\0\0\0"
    dot_dot = DIRECTORY_ENTRY.pack(*DirectoryEntry(parent, BLOCK_SIZE - _DOT_SIZE, 2, TYPE_DIRECTORY))
    info = HASH_TREE_INFO.pack(*HashTreeInfo(indirect_levels=int(inner > 0)))
    return [_tree_node(dot + dot_dot + b"..\0\0" + info, targets, ROOT_LIMIT, owner), *nodes]


def _tree_node(header: bytes, targets: list[tuple[int, int]], limit: int, owner: int) -> bytes:
    entries = b"".join(HASH_TREE_ENTRY.pack(*HashTreeEntry(*target)) for target in targets)
    # The first entry needs no hash: its place holds the node's limit and count.
    count = HASH_TREE_COUNT.pack(*HashTreeCount(limit, len(targets)))
    used = header + count + entries[HASH_TREE_COUNT.size :]
    tail_offset = len(header) + limit * HASH_TREE_ENTRY.size
    tail = bytes(WORD.size) + WORD.pack(hash_tree_checksum(owner, used))
    return (used.ljust(tail_offset, b"\0") + tail).ljust(BLOCK_SIZE, b"\0")
