"""The groups' bitmaps and descriptors.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/bitmaps.rst and
group_descr.rst. Bits beyond the file system's end, and beyond the inodes a group has, are set.
"""

from __future__ import annotations

from bouvet.formats.ext4.blocks import BLOCK_SIZE, BLOCKS_PER_GROUP
from bouvet.formats.ext4.checksum import bitmap_checksum, group_checksum
from bouvet.formats.ext4.plan import Ext4Plan
from bouvet.formats.ext4.structs import GROUP_DESCRIPTOR, GROUP_INODE_ZEROED, GroupDescriptor


def encode_block_bitmaps(plan: Ext4Plan) -> list[bytes]:
    """Return each group's block bitmap."""
    groups = plan.geometry.groups
    bits = bytearray(groups * BLOCK_SIZE)
    for run in plan.used:
        _set_bits(bits, run.start, run.end)
    _set_bits(bits, plan.geometry.blocks, groups * BLOCKS_PER_GROUP)
    return [bytes(bits[start : start + BLOCK_SIZE]) for start in range(0, len(bits), BLOCK_SIZE)]


def encode_inode_bitmaps(plan: Ext4Plan) -> list[bytes]:
    """Return each group's inode bitmap. Inodes are numbered without gaps."""
    per_group = plan.geometry.inodes_per_group
    bitmaps = []
    for group in range(plan.geometry.groups):
        bits = bytearray(BLOCK_SIZE)
        _set_bits(bits, 0, _used_inodes(plan, group))
        _set_bits(bits, per_group, 8 * BLOCK_SIZE)
        bitmaps.append(bytes(bits))
    return bitmaps


def encode_descriptors(
    plan: Ext4Plan, block_bitmaps: list[bytes], inode_bitmaps: list[bytes], seed: int
) -> bytes:
    """Return the descriptor table, padded to whole blocks."""
    geometry = plan.geometry
    per_group = geometry.inodes_per_group
    directories = [0] * geometry.groups
    for node in plan.nodes:
        if node.inode.is_directory:
            directories[(node.number - 1) // per_group] += 1
    table = []
    for group in range(geometry.groups):
        places = (geometry.block_bitmaps[group], geometry.inode_bitmaps[group])
        free_blocks = 8 * BLOCK_SIZE - int.from_bytes(block_bitmaps[group], "little").bit_count()
        free_inodes = per_group - _used_inodes(plan, group)
        block_checksum = bitmap_checksum(seed, block_bitmaps[group])
        inode_checksum = bitmap_checksum(seed, inode_bitmaps[group][: per_group // 8])
        record = GroupDescriptor(
            block_bitmap_lo=places[0] & 0xFFFFFFFF,
            block_bitmap_hi=places[0] >> 32,
            inode_bitmap_lo=places[1] & 0xFFFFFFFF,
            inode_bitmap_hi=places[1] >> 32,
            inode_table_lo=geometry.inode_tables[group].start & 0xFFFFFFFF,
            inode_table_hi=geometry.inode_tables[group].start >> 32,
            free_blocks_lo=free_blocks,
            free_inodes_lo=free_inodes,
            used_directories_lo=directories[group],
            flags=GROUP_INODE_ZEROED,
            block_bitmap_checksum_lo=block_checksum & 0xFFFF,
            block_bitmap_checksum_hi=block_checksum >> 16,
            inode_bitmap_checksum_lo=inode_checksum & 0xFFFF,
            inode_bitmap_checksum_hi=inode_checksum >> 16,
            unused_inodes_lo=free_inodes,
        )
        checksum = group_checksum(seed, group, GROUP_DESCRIPTOR.pack(*record))
        table.append(GROUP_DESCRIPTOR.pack(*record._replace(checksum=checksum)))
    return b"".join(table).ljust(geometry.descriptors * BLOCK_SIZE, b"\0")


def _used_inodes(plan: Ext4Plan, group: int) -> int:
    per_group = plan.geometry.inodes_per_group
    return min(max(plan.inode_count - group * per_group, 0), per_group)


def _set_bits(bits: bytearray, start: int, end: int) -> None:
    """Set the bits from `start` to before `end`; the lowest bit of a byte is its first."""
    first_byte, last_byte = -(-start // 8), end // 8
    if first_byte > last_byte:
        bits[last_byte] |= (1 << end % 8) - (1 << start % 8)
        return
    if start % 8:
        bits[first_byte - 1] |= 0xFF & -(1 << start % 8)
    bits[first_byte:last_byte] = b"\xff" * (last_byte - first_byte)
    if end % 8:
        bits[last_byte] |= (1 << end % 8) - 1
