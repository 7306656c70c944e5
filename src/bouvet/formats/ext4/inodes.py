"""Inode records: times, owners, device numbers, and the record's checksum.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/inodes.rst.
"""

from __future__ import annotations

from typing import NamedTuple

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import SECTORS_PER_BLOCK
from bouvet.formats.ext4.checksum import inode_checksum
from bouvet.formats.ext4.structs import INODE, InodeRecord
from bouvet.formats.tree import Inode

INODE_SIZE = 256
CHECKSUM_LO_OFFSET = 0x7C
CHECKSUM_HI_OFFSET = 0x82
GOOD_OLD_SIZE = 128

ROOT_INODE = 2
RESIZE_INODE = 7
JOURNAL_INODE = 8
FIRST_INODE = 11
"""The first inode that is not reserved; `lost+found` has it by custom."""

MIN_SECONDS = -(1 << 31)
MAX_SECONDS = (1 << 34) + MIN_SECONDS - 1
"""The times that ext4 can store: 1901-12-13 to 2446-05-10."""

MAX_LINKS = 65000
FAST_SYMLINK = 60
"""Targets shorter than this lie in the inode."""
MAX_SYMLINK = 4095
MAX_ID = (1 << 32) - 1

_BILLION = 1_000_000_000
_MAX_MAJOR = (1 << 12) - 1
_MAX_MINOR = (1 << 20) - 1


class Timestamp(NamedTuple):
    """A time in an inode: the lower 32 bits of the seconds; nanoseconds and two more bits of seconds."""

    seconds: int
    extra: int


class InodePlace(NamedTuple):
    """What the file system adds to a file's own attributes.

    Attributes:
        links: Number of names.
        size: Length in bytes.
        blocks: Blocks in use, those of extent nodes and attributes included.
        flags: `i_flags`.
        block: 60 bytes: the extent tree's root, a short target, or a device number.
        xattr_block: The attribute block's number, 0 for none.
    """

    links: int
    size: int = 0
    blocks: int = 0
    flags: int = 0
    block: bytes = b""
    xattr_block: int = 0


def encode_time(nanoseconds: int) -> Timestamp:
    """Return the stored form of a time since 1970; what is out of range becomes the nearest that is in.

    The kernel does the same when a program sets such a time.
    """
    seconds, fraction = divmod(nanoseconds, _BILLION)
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        seconds, fraction = (MIN_SECONDS, 0) if seconds < MIN_SECONDS else (MAX_SECONDS, 0)
    epoch = (seconds - MIN_SECONDS) >> 32
    return Timestamp(seconds & 0xFFFFFFFF, fraction << 2 | epoch)


def decode_time(seconds: int, extra: int) -> int:
    """Return a stored time in nanoseconds since 1970."""
    signed = seconds - (1 << 32) if seconds >> 31 else seconds
    return (signed + ((extra & 3) << 32)) * _BILLION + (extra >> 2)


def encode_device(major: int, minor: int) -> bytes:
    """Return a device number as it lies in an inode: the old form where it fits, else the new one.

    Raises:
        FormatError: The major number has more than 12 bits or the minor more than 20.
    """
    if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
        raise FormatError(f"a device cannot have the number {major}:{minor}")
    if major < 256 and minor < 256:
        return (major << 8 | minor).to_bytes(4, "little")
    return bytes(4) + (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).to_bytes(4, "little")


def decode_device(block: bytes) -> tuple[int, int]:
    """Return the (major, minor) of a device from its inode's 60 bytes."""
    old = int.from_bytes(block[:4], "little")
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    new = int.from_bytes(block[4:8], "little")
    return new >> 8 & _MAX_MAJOR, new & 0xFF | new >> 12 & ~0xFF & _MAX_MINOR


def encode_inode(inode: Inode, place: InodePlace, changed: Timestamp, xattrs: bytes, owner: int) -> bytes:
    """Return an inode's 256 bytes.

    The access time is the modification time; the change and creation times are `changed`.

    Args:
        inode: The file's own attributes.
        place: What the file system adds.
        changed: When the file system was made.
        xattrs: The attributes that lie in the inode, at most 96 bytes.
        owner: The checksum seed of the inode.
    """
    modified = encode_time(inode.mtime)
    record = INODE.pack(
        *InodeRecord(
            mode=inode.mode,
            uid_lo=inode.uid & 0xFFFF,
            size_lo=place.size & 0xFFFFFFFF,
            atime=modified.seconds,
            ctime=changed.seconds,
            mtime=modified.seconds,
            gid_lo=inode.gid & 0xFFFF,
            links=place.links,
            sectors_lo=place.blocks * SECTORS_PER_BLOCK,
            flags=place.flags,
            block=place.block,
            xattr_block_lo=place.xattr_block & 0xFFFFFFFF,
            size_hi=place.size >> 32,
            xattr_block_hi=place.xattr_block >> 32,
            uid_hi=inode.uid >> 16,
            gid_hi=inode.gid >> 16,
            ctime_extra=changed.extra,
            mtime_extra=modified.extra,
            atime_extra=modified.extra,
            crtime=changed.seconds,
            crtime_extra=changed.extra,
        )
    )
    return seal_inode((record + xattrs).ljust(INODE_SIZE, b"\0"), owner)


def seal_inode(record: bytes, owner: int) -> bytes:
    """Return an inode's bytes, whose checksum fields are zero, with the checksum filled in."""
    checksum = inode_checksum(owner, record)
    sealed = bytearray(record)
    sealed[CHECKSUM_LO_OFFSET : CHECKSUM_LO_OFFSET + 2] = (checksum & 0xFFFF).to_bytes(2, "little")
    sealed[CHECKSUM_HI_OFFSET : CHECKSUM_HI_OFFSET + 2] = (checksum >> 16).to_bytes(2, "little")
    return bytes(sealed)
