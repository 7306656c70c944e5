"""The lowest layer of reading: the image's bytes, and its inodes, verified one by one.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/group_descr.rst and inodes.rst.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.checksum import group_checksum, inode_checksum, owner_seed
from bouvet.formats.ext4.directory import FILE_TYPES
from bouvet.formats.ext4.facts import Ext4Facts
from bouvet.formats.ext4.inodes import CHECKSUM_HI_OFFSET, CHECKSUM_LO_OFFSET, GOOD_OLD_SIZE
from bouvet.formats.ext4.structs import (
    GROUP_DESCRIPTOR,
    INODE,
    INODE_FLAG_EA_INODE,
    INODE_FLAG_ENCRYPT,
    INODE_FLAG_INLINE_DATA,
    GroupDescriptor,
    InodeRecord,
)

_COPY_PIECE = 1 << 20
_UNSUPPORTED_FLAGS = {
    INODE_FLAG_INLINE_DATA: "inline data",
    INODE_FLAG_ENCRYPT: "encryption",
    INODE_FLAG_EA_INODE: "an attribute's value",
}
_GROUP_CHECKSUM = slice(30, 32)
_CHECKSUM_HI_END = 4
"""`i_extra_isize` from which on there is an `i_checksum_hi`."""


class ImageSource:
    """The bytes of an image, as a source of its files' content, until it is closed.

    Args:
        path: A file or a block device.

    Attributes:
        size: Its length in bytes.

    Raises:
        OSError: It cannot be opened; or, from any method, it is closed.
    """

    identity: str | None = None

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.lseek(self._descriptor, 0, os.SEEK_END)

    def close(self) -> None:
        """Close the image and forget its descriptor, whose number may come to mean another file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            FormatError: The image ends before.
        """
        pieces = []
        while length:
            piece = os.pread(self._descriptor, length, offset)
            if not piece:
                raise FormatError(f"{self._name} ends at {offset} bytes, too early")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        """Copy exactly `length` bytes from `offset` to `target_offset` of the descriptor `target`.

        Raises:
            FormatError: The image ends before.
            OSError: The target cannot be written.
        """
        while length:
            view = memoryview(self.read(offset, min(length, _COPY_PIECE)))
            offset, length = offset + len(view), length - len(view)
            while view:
                written = os.pwrite(target, view, target_offset)
                view, target_offset = view[written:], target_offset + written


class StoredInode(NamedTuple):
    """An inode as it is stored: its number, fields, bytes, and checksum seed."""

    number: int
    fields: InodeRecord
    raw: bytes
    owner: int | None

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self.fields.size_lo | self.fields.size_hi << 32

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.fields.mode)


class InodeTable:
    """The inodes of a file system."""

    def __init__(self, source: ImageSource, facts: Ext4Facts) -> None:
        self._source = source
        self._facts = facts
        self._tables: dict[int, int] = {}

    def read(self, number: int) -> StoredInode:
        """Return an inode that is in use, verified.

        Raises:
            FormatError: It is out of range, damaged, not in use, or of a kind that is not supported.
        """
        facts = self._facts
        if not 0 < number <= facts.inodes:
            raise FormatError(f"there is no inode {number}")
        group, index = divmod(number - 1, facts.inodes_per_group)
        offset = self._table(group) * BLOCK_SIZE + index * facts.inode_size
        raw = self._source.read(offset, facts.inode_size)
        fields = InodeRecord(*INODE.unpack(raw[: INODE.size].ljust(INODE.size, b"\0")))
        if facts.inode_size == GOOD_OLD_SIZE:
            fields = fields._replace(extra_isize=0)
        elif fields.extra_isize % 4 or GOOD_OLD_SIZE + fields.extra_isize > facts.inode_size:
            raise FormatError(f"inode {number} is damaged")
        owner = None
        if facts.has_checksums:
            owner = owner_seed(facts.checksum_seed, number, fields.generation)
            if not _inode_is_intact(fields, raw, owner):
                raise FormatError(f"the checksum of inode {number} is wrong")
        if not fields.links or stat.S_IFMT(fields.mode) >> 12 not in FILE_TYPES:
            raise FormatError(f"inode {number} is not in use, though a name leads to it")
        for flag, meaning in _UNSUPPORTED_FLAGS.items():
            if fields.flags & flag:
                raise FormatError(f"inode {number} holds {meaning}, which is not supported")
        return StoredInode(number, fields, raw, owner)

    def _table(self, group: int) -> int:
        """Return the first block of a group's inode table."""
        if group not in self._tables:
            facts = self._facts
            raw = self._source.read(BLOCK_SIZE + group * facts.descriptor_size, facts.descriptor_size)
            fields = GroupDescriptor(*GROUP_DESCRIPTOR.unpack(raw[:64].ljust(64, b"\0")))
            if facts.has_checksums:
                blank = raw[: _GROUP_CHECKSUM.start] + bytes(2) + raw[_GROUP_CHECKSUM.stop :]
                if group_checksum(facts.checksum_seed, group, blank) != fields.checksum:
                    raise FormatError(f"the checksum of group {group} is wrong")
            table = fields.inode_table_lo | fields.inode_table_hi << 32
            if table * BLOCK_SIZE + facts.inodes_per_group * facts.inode_size > facts.size:
                raise FormatError(f"the inode table of group {group} is out of place")
            self._tables[group] = table
        return self._tables[group]


def _inode_is_intact(fields: InodeRecord, raw: bytes, owner: int) -> bool:
    """Return whether an inode's checksum is right; without the upper half's field, the lower half."""
    blank = bytearray(raw)
    blank[CHECKSUM_LO_OFFSET : CHECKSUM_LO_OFFSET + 2] = bytes(2)
    stored, mask = fields.checksum_lo, 0xFFFF
    if fields.extra_isize >= _CHECKSUM_HI_END:
        blank[CHECKSUM_HI_OFFSET : CHECKSUM_HI_OFFSET + 2] = bytes(2)
        stored, mask = stored | fields.checksum_hi << 16, 0xFFFFFFFF
    return inode_checksum(owner, bytes(blank)) & mask == stored
