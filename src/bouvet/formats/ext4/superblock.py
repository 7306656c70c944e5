"""The superblock that bouvet writes: features, sizes, names.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

from bouvet.formats.ext4.blocks import BLOCK_SIZE, BLOCKS_PER_GROUP, RESERVED_DESCRIPTOR_BLOCKS
from bouvet.formats.ext4.checksum import superblock_checksum
from bouvet.formats.ext4.inodes import JOURNAL_INODE
from bouvet.formats.ext4.plan import Ext4Plan
from bouvet.formats.ext4.structs import (
    COMPAT_FEATURES,
    FLAG_UNSIGNED_HASH,
    INCOMPAT_FEATURES,
    JOURNAL_BACKUP_BLOCKS,
    RO_COMPAT_FEATURES,
    SUPERBLOCK,
    Superblock,
)

SUPERBLOCK_OFFSET = 1024

COMPAT = ("ext_attr", "resize_inode", "dir_index")
INCOMPAT = ("filetype", "extent", "64bit", "flex_bg")
RO_COMPAT = ("sparse_super", "large_file", "dir_nlink", "extra_isize", "metadata_csum")

_LOG_BLOCK_SIZE = 2
"""4096 = 2 ** (10 + 2)."""
_LOG_GROUPS_PER_FLEX = 4


def encode_superblock(plan: Ext4Plan, group: int, journal_copy: bytes) -> bytes:
    """Return the superblock, or its backup, that begins a group.

    Args:
        plan: The file system.
        group: The group's number.
        journal_copy: The journal inode's block map and size, 68 bytes; empty without a journal.
    """
    geometry, options = plan.geometry, plan.options
    free_blocks = plan.free_bytes // BLOCK_SIZE
    time, time_hi = options.timestamp & 0xFFFFFFFF, options.timestamp >> 32
    compat = (*COMPAT, "has_journal") if journal_copy else COMPAT
    record = Superblock(
        inodes_count=geometry.groups * geometry.inodes_per_group,
        blocks_count_lo=geometry.blocks & 0xFFFFFFFF,
        blocks_count_hi=geometry.blocks >> 32,
        free_blocks_count_lo=free_blocks & 0xFFFFFFFF,
        free_blocks_count_hi=free_blocks >> 32,
        free_inodes_count=plan.free_inodes,
        log_block_size=_LOG_BLOCK_SIZE,
        log_cluster_size=_LOG_BLOCK_SIZE,
        blocks_per_group=BLOCKS_PER_GROUP,
        clusters_per_group=BLOCKS_PER_GROUP,
        inodes_per_group=geometry.inodes_per_group,
        write_time=time,
        write_time_hi=time_hi,
        last_check=time,
        last_check_hi=time_hi,
        creation_time=time,
        creation_time_hi=time_hi,
        block_group=group,
        feature_compat=_bits(COMPAT_FEATURES, compat),
        feature_incompat=_bits(INCOMPAT_FEATURES, INCOMPAT),
        feature_ro_compat=_bits(RO_COMPAT_FEATURES, RO_COMPAT),
        uuid=options.uuid.bytes,
        volume_name=options.label.encode(),
        reserved_gdt_blocks=RESERVED_DESCRIPTOR_BLOCKS,
        journal_inode=JOURNAL_INODE if journal_copy else 0,
        journal_backup_type=JOURNAL_BACKUP_BLOCKS if journal_copy else 0,
        journal_blocks=journal_copy,
        hash_seed=options.hash_seed.bytes,
        flags=FLAG_UNSIGNED_HASH,
        log_groups_per_flex=_LOG_GROUPS_PER_FLEX,
    )
    checksum = superblock_checksum(SUPERBLOCK.pack(*record))
    return SUPERBLOCK.pack(*record._replace(checksum=checksum))


def _bits(names: dict[int, str], wanted: tuple[str, ...]) -> int:
    return sum(bit for bit, name in names.items() if name in wanted)
