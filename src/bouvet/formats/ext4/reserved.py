"""The inodes that ext4 keeps for itself: the resize inode, the journal, and the empty ones.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/special_inodes.rst and
journal.rst.
"""

from __future__ import annotations

import stat

from bouvet.formats.ext4.blocks import (
    BLOCK_SIZE,
    BLOCKS_PER_GROUP,
    RESERVED_DESCRIPTOR_BLOCKS,
    backup_groups,
)
from bouvet.formats.ext4.checksum import journal_superblock_checksum, owner_seed
from bouvet.formats.ext4.extents import encode_tree
from bouvet.formats.ext4.inodes import (
    INODE_SIZE,
    JOURNAL_INODE,
    RESIZE_INODE,
    InodePlace,
    encode_inode,
    encode_time,
    seal_inode,
)
from bouvet.formats.ext4.plan import Ext4Plan
from bouvet.formats.ext4.structs import (
    INODE,
    INODE_FLAG_EXTENTS,
    JOURNAL_INCOMPAT_64BIT,
    JOURNAL_INCOMPAT_CHECKSUM_V3,
    JOURNAL_INCOMPAT_REVOKE,
    JOURNAL_SUPERBLOCK,
    WORD,
    InodeRecord,
    JournalSuperblock,
)
from bouvet.formats.tree import Inode

_ADDRESSES = BLOCK_SIZE // WORD.size
_DOUBLE_INDIRECT = 13
_DIRECT_BLOCKS = 12
_RESIZE_SIZE = (_ADDRESSES**2 + _ADDRESSES + _DIRECT_BLOCKS) * BLOCK_SIZE
"""The resize inode's size in bytes by custom: everything a double indirect block can reach."""
_MODE = stat.S_IFREG | 0o600
_BILLION = 1_000_000_000


def encode_empty_inode(number: int, seed: int) -> bytes:
    """Return a reserved inode that is not in use; it has a checksum nevertheless."""
    record = INODE.pack(*InodeRecord()).ljust(INODE_SIZE, b"\0")
    return seal_inode(record, owner_seed(seed, number))


def encode_resize_inode(plan: Ext4Plan, seed: int) -> bytes:
    """Return the inode that owns the reserved descriptor blocks and their backups."""
    backups = len(backup_groups(plan.geometry.groups))
    words = [0] * 15
    words[_DOUBLE_INDIRECT] = plan.resize_block
    place = InodePlace(
        links=1,
        size=_RESIZE_SIZE,
        blocks=1 + RESERVED_DESCRIPTOR_BLOCKS * (1 + backups),
        block=b"".join(map(WORD.pack, words)),
    )
    return _encode(plan, place, owner_seed(seed, RESIZE_INODE))


def encode_resize_blocks(plan: Ext4Plan) -> tuple[bytes, bytes]:
    """Return the resize inode's double indirect block, and the first group's reserved blocks.

    Each reserved descriptor block of the first group serves as an indirect block that lists its own
    backups; the double indirect block lists the reserved blocks, at their places in the whole table.
    """
    geometry = plan.geometry
    first = 1 + geometry.descriptors
    reserved = range(first, first + RESERVED_DESCRIPTOR_BLOCKS)
    words = [0] * _ADDRESSES
    for number in reserved:
        words[(number - 1) % _ADDRESSES] = number
    backups = backup_groups(geometry.groups)
    lists = [
        b"".join(WORD.pack(group * BLOCKS_PER_GROUP + number) for group in backups).ljust(BLOCK_SIZE, b"\0")
        for number in reserved
    ]
    return b"".join(map(WORD.pack, words)), b"".join(lists)


def encode_journal_inode(plan: Ext4Plan, seed: int) -> tuple[bytes, bytes, list[tuple[int, bytes]]]:
    """Return the journal's inode, the superblock's copy of its block map, and its extent nodes."""
    geometry, size = plan.geometry, plan.options.journal_size
    owner = owner_seed(seed, JOURNAL_INODE)
    root, nodes = encode_tree(geometry.journal, geometry.journal_nodes, owner)
    place = InodePlace(
        links=1,
        size=size,
        blocks=size // BLOCK_SIZE + len(nodes),
        flags=INODE_FLAG_EXTENTS,
        block=root,
    )
    copy = root + WORD.pack(size >> 32) + WORD.pack(size & 0xFFFFFFFF)
    return _encode(plan, place, owner), copy, nodes


def encode_journal_superblock(plan: Ext4Plan) -> bytes:
    """Return the first block of an empty journal."""
    record = JournalSuperblock(
        block_size=BLOCK_SIZE,
        length=plan.options.journal_size // BLOCK_SIZE,
        feature_incompat=JOURNAL_INCOMPAT_REVOKE | JOURNAL_INCOMPAT_64BIT | JOURNAL_INCOMPAT_CHECKSUM_V3,
        uuid=plan.options.uuid.bytes,
    )
    checksum = journal_superblock_checksum(JOURNAL_SUPERBLOCK.pack(*record))
    return JOURNAL_SUPERBLOCK.pack(*record._replace(checksum=checksum)).ljust(BLOCK_SIZE, b"\0")


def _encode(plan: Ext4Plan, place: InodePlace, owner: int) -> bytes:
    made = plan.options.timestamp * _BILLION
    return encode_inode(Inode(_MODE, mtime=made), place, encode_time(made), b"", owner)
