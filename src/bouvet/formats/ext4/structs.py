"""The records of an ext4 file system, each declared once.

Source: the Linux kernel's documentation, "ext4 Data Structures and Algorithms"
(Documentation/filesystems/ext4: super.rst, group_descr.rst, inodes.rst, ifork.rst, directory.rst,
attributes.rst, journal.rst). All integers are little-endian, but for the journal's, which are
big-endian. A field that bouvet neither writes nor reads is still declared, so that the sizes hold.
"""

from __future__ import annotations

import struct
from typing import Annotated, NamedTuple, get_type_hints

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
Bytes3 = Annotated[bytes, "3s"]
Bytes4 = Annotated[bytes, "4s"]
Bytes16 = Annotated[bytes, "16s"]
Bytes20 = Annotated[bytes, "20s"]
Bytes60 = Annotated[bytes, "60s"]
Bytes64 = Annotated[bytes, "64s"]
Bytes68 = Annotated[bytes, "68s"]
Bytes128 = Annotated[bytes, "128s"]
Bytes168 = Annotated[bytes, "168s"]
Bytes376 = Annotated[bytes, "376s"]
Bytes768 = Annotated[bytes, "768s"]

SUPERBLOCK_MAGIC = 0xEF53
EXTENT_MAGIC = 0xF30A
XATTR_MAGIC = 0xEA020000
JOURNAL_MAGIC = 0xC03B3998

COMPAT_FEATURES = {
    0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode",
    0x20: "dir_index", 0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes",
    0x1000: "orphan_file",
}  # fmt: skip
INCOMPAT_FEATURES = {
    0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg",
    0x40: "extent", 0x80: "64bit", 0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x1000: "dirdata",
    0x2000: "metadata_csum_seed", 0x4000: "large_dir", 0x8000: "inline_data", 0x10000: "encrypt",
    0x20000: "casefold",
}  # fmt: skip
RO_COMPAT_FEATURES = {
    0x1: "sparse_super", 0x2: "large_file", 0x4: "btree_dir", 0x8: "huge_file", 0x10: "uninit_bg",
    0x20: "dir_nlink", 0x40: "extra_isize", 0x80: "has_snapshot", 0x100: "quota", 0x200: "bigalloc",
    0x400: "metadata_csum", 0x800: "replica", 0x1000: "read-only", 0x2000: "project", 0x4000: "shared_blocks",
    0x8000: "verity", 0x10000: "orphan_present",
}  # fmt: skip
"""Feature bits by the names that `dumpe2fs` shows."""

GROUP_INODE_ZEROED = 0x4
"""Descriptor flag: the inode table's unused part is zeros already; the kernel need not clear it."""

INODE_FLAG_INDEX = 0x1000
INODE_FLAG_EXTENTS = 0x80000
INODE_FLAG_EA_INODE = 0x200000
INODE_FLAG_INLINE_DATA = 0x10000000
INODE_FLAG_ENCRYPT = 0x800

STATE_CLEAN = 0x1
ERRORS_CONTINUE = 1
HASH_HALF_MD4 = 1
FLAG_SIGNED_HASH = 0x1
FLAG_UNSIGNED_HASH = 0x2
CHECKSUM_CRC32C = 1
JOURNAL_BACKUP_BLOCKS = 1
MOUNT_USER_XATTR_AND_ACL = 0x4 | 0x8

DIRENT_TAIL_TYPE = 0xDE

JOURNAL_SUPERBLOCK_V2 = 4
JOURNAL_INCOMPAT_REVOKE = 0x1
JOURNAL_INCOMPAT_64BIT = 0x2
JOURNAL_INCOMPAT_CHECKSUM_V3 = 0x10
JOURNAL_CHECKSUM_CRC32C = 4


class Superblock(NamedTuple):
    """struct ext4_super_block (super.rst)."""

    inodes_count: U32 = 0
    blocks_count_lo: U32 = 0
    reserved_blocks_count_lo: U32 = 0
    free_blocks_count_lo: U32 = 0
    free_inodes_count: U32 = 0
    first_data_block: U32 = 0
    log_block_size: U32 = 0
    log_cluster_size: U32 = 0
    blocks_per_group: U32 = 0
    clusters_per_group: U32 = 0
    inodes_per_group: U32 = 0
    mount_time: U32 = 0
    write_time: U32 = 0
    mount_count: U16 = 0
    max_mount_count: U16 = 0xFFFF
    magic: U16 = SUPERBLOCK_MAGIC
    state: U16 = STATE_CLEAN
    errors: U16 = ERRORS_CONTINUE
    minor_revision: U16 = 0
    last_check: U32 = 0
    check_interval: U32 = 0
    creator_os: U32 = 0
    revision: U32 = 1
    default_reserved_uid: U16 = 0
    default_reserved_gid: U16 = 0
    first_inode: U32 = 11
    inode_size: U16 = 256
    block_group: U16 = 0
    feature_compat: U32 = 0
    feature_incompat: U32 = 0
    feature_ro_compat: U32 = 0
    uuid: Bytes16 = b""
    volume_name: Bytes16 = b""
    last_mounted: Bytes64 = b""
    algorithm_usage: U32 = 0
    preallocate_blocks: U8 = 0
    preallocate_directory_blocks: U8 = 0
    reserved_gdt_blocks: U16 = 0
    journal_uuid: Bytes16 = b""
    journal_inode: U32 = 0
    journal_device: U32 = 0
    last_orphan: U32 = 0
    hash_seed: Bytes16 = b""
    default_hash_version: U8 = HASH_HALF_MD4
    journal_backup_type: U8 = 0
    descriptor_size: U16 = 64
    default_mount_options: U32 = MOUNT_USER_XATTR_AND_ACL
    first_meta_group: U32 = 0
    creation_time: U32 = 0
    journal_blocks: Bytes68 = b""
    blocks_count_hi: U32 = 0
    reserved_blocks_count_hi: U32 = 0
    free_blocks_count_hi: U32 = 0
    min_extra_isize: U16 = 32
    want_extra_isize: U16 = 32
    flags: U32 = 0
    raid_stride: U16 = 0
    mmp_interval: U16 = 0
    mmp_block: U64 = 0
    raid_stripe_width: U32 = 0
    log_groups_per_flex: U8 = 0
    checksum_type: U8 = CHECKSUM_CRC32C
    reserved_padding: U16 = 0
    kibibytes_written: U64 = 0
    snapshot_and_errors: Bytes128 = b""
    mount_options: Bytes64 = b""
    user_quota_inode: U32 = 0
    group_quota_inode: U32 = 0
    overhead_blocks: U32 = 0
    backup_groups: U64 = 0
    encryption: Bytes20 = b""
    lost_and_found_inode: U32 = 0
    project_quota_inode: U32 = 0
    checksum_seed: U32 = 0
    write_time_hi: U8 = 0
    mount_time_hi: U8 = 0
    creation_time_hi: U8 = 0
    last_check_hi: U8 = 0
    error_times_hi: U16 = 0
    error_codes: U16 = 0
    encoding: U16 = 0
    encoding_flags: U16 = 0
    orphan_file_inode: U32 = 0
    reserved: Bytes376 = b""
    checksum: U32 = 0


class GroupDescriptor(NamedTuple):
    """struct ext4_group_desc with the 64bit feature (group_descr.rst)."""

    block_bitmap_lo: U32 = 0
    inode_bitmap_lo: U32 = 0
    inode_table_lo: U32 = 0
    free_blocks_lo: U16 = 0
    free_inodes_lo: U16 = 0
    used_directories_lo: U16 = 0
    flags: U16 = 0
    exclude_bitmap_lo: U32 = 0
    block_bitmap_checksum_lo: U16 = 0
    inode_bitmap_checksum_lo: U16 = 0
    unused_inodes_lo: U16 = 0
    checksum: U16 = 0
    block_bitmap_hi: U32 = 0
    inode_bitmap_hi: U32 = 0
    inode_table_hi: U32 = 0
    free_blocks_hi: U16 = 0
    free_inodes_hi: U16 = 0
    used_directories_hi: U16 = 0
    unused_inodes_hi: U16 = 0
    exclude_bitmap_hi: U32 = 0
    block_bitmap_checksum_hi: U16 = 0
    inode_bitmap_checksum_hi: U16 = 0
    reserved: U32 = 0


class InodeRecord(NamedTuple):
    """struct ext4_inode up to an extra size of 32 bytes (inodes.rst)."""

    mode: U16 = 0
    uid_lo: U16 = 0
    size_lo: U32 = 0
    atime: U32 = 0
    ctime: U32 = 0
    mtime: U32 = 0
    dtime: U32 = 0
    gid_lo: U16 = 0
    links: U16 = 0
    sectors_lo: U32 = 0
    flags: U32 = 0
    version_lo: U32 = 0
    block: Bytes60 = b""
    generation: U32 = 0
    xattr_block_lo: U32 = 0
    size_hi: U32 = 0
    fragment: U32 = 0
    sectors_hi: U16 = 0
    xattr_block_hi: U16 = 0
    uid_hi: U16 = 0
    gid_hi: U16 = 0
    checksum_lo: U16 = 0
    reserved: U16 = 0
    extra_isize: U16 = 32
    checksum_hi: U16 = 0
    ctime_extra: U32 = 0
    mtime_extra: U32 = 0
    atime_extra: U32 = 0
    crtime: U32 = 0
    crtime_extra: U32 = 0
    version_hi: U32 = 0
    project: U32 = 0


class ExtentHeader(NamedTuple):
    """struct ext4_extent_header (ifork.rst)."""

    magic: U16
    entries: U16
    maximum: U16
    depth: U16
    generation: U32 = 0


class Extent(NamedTuple):
    """struct ext4_extent, a leaf's entry (ifork.rst)."""

    logical: U32
    length: U16
    physical_hi: U16
    physical_lo: U32


class ExtentIndex(NamedTuple):
    """struct ext4_extent_idx, an inner node's entry (ifork.rst)."""

    logical: U32
    leaf_lo: U32
    leaf_hi: U16
    unused: U16 = 0


class DirectoryEntry(NamedTuple):
    """The fixed part of struct ext4_dir_entry_2; the name follows (directory.rst)."""

    inode: U32
    record_length: U16
    name_length: U8
    file_type: U8


class DirectoryTail(NamedTuple):
    """struct ext4_dir_entry_tail (directory.rst)."""

    inode: U32 = 0
    record_length: U16 = 12
    name_length: U8 = 0
    file_type: U8 = DIRENT_TAIL_TYPE
    checksum: U32 = 0


class HashTreeInfo(NamedTuple):
    """struct dx_root_info (directory.rst)."""

    reserved: U32 = 0
    hash_version: U8 = HASH_HALF_MD4
    info_length: U8 = 8
    indirect_levels: U8 = 0
    unused_flags: U8 = 0


class HashTreeCount(NamedTuple):
    """struct dx_countlimit, which lies over the first entry's hash (directory.rst)."""

    limit: U16
    used: U16


class HashTreeEntry(NamedTuple):
    """struct dx_entry (directory.rst)."""

    hash: U32
    block: U32


class XattrHeader(NamedTuple):
    """struct ext4_xattr_header of an attribute block (attributes.rst)."""

    magic: U32 = XATTR_MAGIC
    references: U32 = 1
    blocks: U32 = 1
    hash: U32 = 0
    checksum: U32 = 0
    reserved_1: U32 = 0
    reserved_2: U64 = 0


class XattrEntry(NamedTuple):
    """The fixed part of struct ext4_xattr_entry; the name follows (attributes.rst)."""

    name_length: U8
    name_index: U8
    value_offset: U16
    value_inode: U32
    value_size: U32
    hash: U32


class JournalSuperblock(NamedTuple):
    """struct journal_superblock_s, big-endian (journal.rst)."""

    magic: U32 = JOURNAL_MAGIC
    block_type: U32 = JOURNAL_SUPERBLOCK_V2
    header_sequence: U32 = 0
    block_size: U32 = 0
    length: U32 = 0
    first: U32 = 1
    sequence: U32 = 1
    start: U32 = 0
    errno: U32 = 0
    feature_compat: U32 = 0
    feature_incompat: U32 = 0
    feature_ro_compat: U32 = 0
    uuid: Bytes16 = b""
    users_count: U32 = 1
    dynamic_superblock: U32 = 0
    max_transaction: U32 = 0
    max_transaction_data: U32 = 0
    checksum_type: U8 = JOURNAL_CHECKSUM_CRC32C
    padding: Bytes3 = b""
    reserved: Bytes168 = b""
    checksum: U32 = 0
    users: Bytes768 = b""


def _layout(record: type[tuple[int | bytes, ...]], size: int, order: str = "<") -> struct.Struct:
    """Return the packer of a record type whose size must be `size` bytes."""
    hints = get_type_hints(record, include_extras=True)
    packer = struct.Struct(order + "".join(hint.__metadata__[0] for hint in hints.values()))
    assert packer.size == size, f"{record.__name__} is {packer.size} bytes, not {size}"
    return packer


SUPERBLOCK = _layout(Superblock, 1024)
GROUP_DESCRIPTOR = _layout(GroupDescriptor, 64)
INODE = _layout(InodeRecord, 160)
EXTENT_HEADER = _layout(ExtentHeader, 12)
EXTENT = _layout(Extent, 12)
EXTENT_INDEX = _layout(ExtentIndex, 12)
DIRECTORY_ENTRY = _layout(DirectoryEntry, 8)
DIRECTORY_TAIL = _layout(DirectoryTail, 12)
HASH_TREE_INFO = _layout(HashTreeInfo, 8)
HASH_TREE_COUNT = _layout(HashTreeCount, 4)
HASH_TREE_ENTRY = _layout(HashTreeEntry, 8)
XATTR_HEADER = _layout(XattrHeader, 32)
XATTR_ENTRY = _layout(XattrEntry, 16)
JOURNAL_SUPERBLOCK = _layout(JournalSuperblock, 1024, ">")
WORD = struct.Struct("<I")
DOUBLE_WORD = struct.Struct("<Q")
