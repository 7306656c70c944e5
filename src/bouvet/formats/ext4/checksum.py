"""The checksums of ext4's metadata (feature metadata_csum) and of its journal.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/checksums.rst. All are crc32c
in its raw form: started with a given value and without the final inversion that the library applies.
Every function takes and returns the raw form.
"""

from __future__ import annotations

import google_crc32c

from bouvet.formats.ext4.structs import DOUBLE_WORD, WORD

ALL_ONES = 0xFFFFFFFF

_ZERO_WORD = bytes(4)


def crc32c(start: int, data: bytes) -> int:
    """Return the raw crc32c of `data`, continued from `start`."""
    checksum: int = google_crc32c.extend(start ^ ALL_ONES, data)
    return checksum ^ ALL_ONES


def filesystem_seed(uuid: bytes) -> int:
    """Return the value from which all checksums but the superblock's start."""
    return crc32c(ALL_ONES, uuid)


def superblock_checksum(record: bytes) -> int:
    """Return the checksum of a superblock (1024 bytes, the checksum's own field last)."""
    return crc32c(ALL_ONES, record[:-4])


def owner_seed(seed: int, inode: int, generation: int = 0) -> int:
    """Return the start value for what belongs to one inode: itself, its directory and extent blocks."""
    return crc32c(seed, WORD.pack(inode) + WORD.pack(generation))


def inode_checksum(owner: int, record: bytes) -> int:
    """Return an inode's checksum; `record` is the whole inode with both checksum halves zero."""
    return crc32c(owner, record)


def directory_checksum(owner: int, block: bytes) -> int:
    """Return a directory leaf's checksum; its last 12 bytes, the tail, do not count."""
    return crc32c(owner, block[:-12])


def hash_tree_checksum(owner: int, used: bytes, reserved: bytes = _ZERO_WORD) -> int:
    """Return a hash tree node's checksum.

    Args:
        owner: The inode's seed.
        used: The node up to its last used entry.
        reserved: The tail's reserved word: what it is counts, and the kernel leaves remains there.
    """
    return crc32c(owner, used + reserved + _ZERO_WORD)


def extent_block_checksum(owner: int, node: bytes) -> int:
    """Return an extent node's checksum; `node` is the header and all the entries there is room for."""
    return crc32c(owner, node)


def xattr_block_checksum(seed: int, block_number: int, block: bytes) -> int:
    """Return an attribute block's checksum; its own field must be zero. It belongs to no inode."""
    return crc32c(crc32c(seed, DOUBLE_WORD.pack(block_number)), block)


def bitmap_checksum(seed: int, bitmap: bytes) -> int:
    """Return the checksum of a block bitmap, or of an inode bitmap's first inodes-per-group bits."""
    return crc32c(seed, bitmap)


def group_checksum(seed: int, group: int, descriptor: bytes) -> int:
    """Return a group descriptor's 16-bit checksum; its own field must be zero."""
    return crc32c(crc32c(seed, WORD.pack(group)), descriptor) & 0xFFFF


def journal_superblock_checksum(record: bytes) -> int:
    """Return the checksum of the journal's superblock (1024 bytes, its own field zero)."""
    return crc32c(ALL_ONES, record)
