"""What the superblock of an existing image says, verified, and which images can be read.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.checksum import filesystem_seed, superblock_checksum
from bouvet.formats.ext4.structs import (
    COMPAT_FEATURES,
    INCOMPAT_FEATURES,
    RO_COMPAT_FEATURES,
    SUPERBLOCK,
    SUPERBLOCK_MAGIC,
    Superblock,
)

READABLE_FEATURES = frozenset(
    ("filetype", "extent", "64bit", "mmp", "flex_bg", "metadata_csum_seed", "large_dir")
)
"""The incompatible features that the reader understands; others change where things are."""

_LOG_BLOCK_SIZE = 2
_INODE_SIZES = (128, 256, 512, 1024, 2048, 4096)
_DESCRIPTOR_SIZES = (64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Ext4Facts:
    """The facts of a file system.

    Attributes:
        label: The volume's name.
        uuid: The volume's UUID.
        features: Names as `dumpe2fs` shows them; an unknown bit as `FEATURE_C5`-like text.
        blocks: Size in blocks of 4096 bytes.
        free_blocks: Blocks that are free.
        inodes: Inodes, used and free.
        free_inodes: Inodes that are free.
        inodes_per_group: Inodes in each group.
        blocks_per_group: Blocks in each group.
        inode_size: Bytes of an inode: 128 to 4096.
        descriptor_size: Bytes of a group descriptor: 32 without the feature 64bit.
        checksum_seed: Start value of the metadata's checksums.
        state: `s_state`: 1 is cleanly unmounted, 2 has errors.
        created: When the file system was made, in seconds since 1970.
    """

    label: str
    uuid: UUID
    features: frozenset[str]
    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    inodes_per_group: int
    blocks_per_group: int
    inode_size: int
    descriptor_size: int
    checksum_seed: int
    state: int
    created: int

    @property
    def size(self) -> int:
        """The file system's size in bytes."""
        return self.blocks * BLOCK_SIZE

    @property
    def groups(self) -> int:
        """The number of block groups."""
        return -(-self.blocks // self.blocks_per_group)

    @property
    def has_checksums(self) -> bool:
        """Whether metadata carries checksums."""
        return "metadata_csum" in self.features


def decode_superblock(record: bytes, image_size: int) -> Ext4Facts:
    """Return the facts of a superblock.

    Args:
        record: The superblock's 1024 bytes.
        image_size: The image's length in bytes.

    Raises:
        FormatError: It is no superblock, is damaged, or describes what the reader cannot read.
    """
    if len(record) != SUPERBLOCK.size:
        raise FormatError("the image is too short for a file system")
    block = Superblock(*SUPERBLOCK.unpack(record))
    if block.magic != SUPERBLOCK_MAGIC or block.revision != 1:
        raise FormatError("the image holds no ext4 file system")
    features = frozenset(
        (
            *_names(COMPAT_FEATURES, block.feature_compat, "C"),
            *_names(INCOMPAT_FEATURES, block.feature_incompat, "I"),
            *_names(RO_COMPAT_FEATURES, block.feature_ro_compat, "R"),
        )
    )
    if "metadata_csum" in features and superblock_checksum(record) != block.checksum:
        raise FormatError("the superblock's checksum is wrong: the image is damaged")
    _check_readable(block, features)
    has_64bit = "64bit" in features
    seed = block.checksum_seed if "metadata_csum_seed" in features else filesystem_seed(block.uuid)
    facts = Ext4Facts(
        label=block.volume_name.rstrip(b"\0").decode(errors="backslashreplace"),
        uuid=UUID(bytes=block.uuid),
        features=features,
        blocks=block.blocks_count_lo | (block.blocks_count_hi << 32 if has_64bit else 0),
        free_blocks=block.free_blocks_count_lo | (block.free_blocks_count_hi << 32 if has_64bit else 0),
        inodes=block.inodes_count,
        free_inodes=block.free_inodes_count,
        inodes_per_group=block.inodes_per_group,
        blocks_per_group=block.blocks_per_group,
        inode_size=block.inode_size,
        descriptor_size=block.descriptor_size if has_64bit else 32,
        checksum_seed=seed,
        state=block.state,
        created=block.creation_time | block.creation_time_hi << 32,
    )
    _check_dimensions(facts, image_size)
    return facts


def _names(table: dict[int, str], bits: int, kind: str) -> list[str]:
    return [
        table.get(1 << position, f"FEATURE_{kind}{position}")
        for position in range(bits.bit_length())
        if bits >> position & 1
    ]


def _check_readable(block: Superblock, features: frozenset[str]) -> None:
    if "needs_recovery" in features:
        raise FormatError(
            "the file system was not unmounted cleanly", hint="replay its journal: e2fsck -fy IMAGE"
        )
    incompatible = frozenset(_names(INCOMPAT_FEATURES, block.feature_incompat, "I"))
    unreadable = incompatible - READABLE_FEATURES | features & {"bigalloc"}
    if unreadable:
        raise FormatError(f"the file system uses what cannot be read here: {', '.join(sorted(unreadable))}")
    if "filetype" not in features:
        raise FormatError("the file system's directories do not say file types, which is not supported")
    if block.log_block_size != _LOG_BLOCK_SIZE or block.first_data_block:
        raise FormatError(
            "the file system's blocks are not of 4096 bytes, which is not supported",
            hint="mke2fs makes such with -b 4096",
        )


def _check_dimensions(facts: Ext4Facts, image_size: int) -> None:
    """Check what everything else is computed from."""
    if facts.size > image_size:
        raise FormatError(f"the image is cut short: {image_size} of {facts.size} bytes are there")
    sizes_known = facts.inode_size in _INODE_SIZES and (
        "64bit" not in facts.features or facts.descriptor_size in _DESCRIPTOR_SIZES
    )
    per_group = 0 < facts.inodes_per_group <= 8 * BLOCK_SIZE and 8 <= facts.blocks_per_group <= 8 * BLOCK_SIZE
    if not sizes_known or not per_group or not facts.blocks:
        raise FormatError("the superblock's sizes make no sense")
    table_end = BLOCK_SIZE + facts.groups * facts.descriptor_size
    if facts.inodes != facts.groups * facts.inodes_per_group or table_end > facts.size:
        raise FormatError("the superblock's counts contradict each other")
