"""Extended attributes: in the inode's spare bytes, then in one block of their own.

Source: the Linux kernel's documentation, Documentation/filesystems/ext4/attributes.rst. POSIX ACLs are
known to user space in one form (version 2, acl(5) entries of eight bytes) and stored in a shorter one
(version 1, without the id where it has no meaning); both directions are here.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.checksum import xattr_block_checksum
from bouvet.formats.ext4.structs import (
    INODE,
    WORD,
    XATTR_ENTRY,
    XATTR_HEADER,
    XATTR_MAGIC,
    XattrEntry,
    XattrHeader,
)

INDEX_ACL_ACCESS = 2
INDEX_ACL_DEFAULT = 3
WHOLE_NAMES = {
    b"system.posix_acl_access": INDEX_ACL_ACCESS,
    b"system.posix_acl_default": INDEX_ACL_DEFAULT,
}
PREFIXES = {b"user.": 1, b"trusted.": 4, b"security.": 6}
NAMES_BY_INDEX = {index: name for name, index in (*PREFIXES.items(), *WHOLE_NAMES.items())}

INODE_ROOM = 256 - INODE.size - WORD.size
BLOCK_ROOM = BLOCK_SIZE - XATTR_HEADER.size
_END = bytes(WORD.size)

_MASK = 0xFFFFFFFF
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_SHORT_ENTRY = struct.Struct("<HH")
_ACL_USER_VERSION = WORD.pack(2)
_ACL_DISK_VERSION = WORD.pack(1)
_ACL_NO_ID = 0xFFFFFFFF
_ACL_TAGS_WITHOUT_ID = (0x01, 0x04, 0x10, 0x20)
_ACL_TAGS_WITH_ID = (0x02, 0x08)


class StoredXattr(NamedTuple):
    """An attribute as it is stored; the order of these is the order in an attribute block."""

    name_index: int
    name_length: int
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        """Bytes of the entry and its value, both padded."""
        return XATTR_ENTRY.size + _padded(self.name_length) + _padded(len(self.value))


class EncodedXattrs(NamedTuple):
    """An inode's attributes: the bytes behind its extra fields, and the attributes for a block."""

    in_inode: bytes
    in_block: tuple[StoredXattr, ...]


NO_XATTRS = EncodedXattrs(b"", ())


def encode_xattrs(xattrs: dict[bytes, bytes]) -> EncodedXattrs:
    """Decide which attributes lie in the inode and which in a block.

    Raises:
        FormatError: A name ext4 cannot store, an ACL that is none, or more than there is room for.
    """
    if not xattrs:
        return NO_XATTRS
    inside: list[StoredXattr] = []
    outside: list[StoredXattr] = []
    room = INODE_ROOM - len(_END)
    for xattr in sorted(_stored(name, value) for name, value in xattrs.items()):
        if xattr.size <= room:
            inside.append(xattr)
            room -= xattr.size
        else:
            outside.append(xattr)
    total = sum(xattr.size for xattr in outside)
    if total > BLOCK_ROOM - len(_END):
        raise FormatError(
            f"extended attributes take {total} bytes, ext4 has room for {BLOCK_ROOM - len(_END)}",
            hint="remove some of the file's extended attributes",
        )
    in_inode = WORD.pack(XATTR_MAGIC) + _entries(inside, INODE_ROOM, 0, hashed=False)[0] if inside else b""
    return EncodedXattrs(in_inode, tuple(outside))


def encode_xattr_block(xattrs: tuple[StoredXattr, ...], seed: int, number: int) -> bytes:
    """Return the attribute block with block number `number`."""
    body, block_hash = _entries(xattrs, BLOCK_ROOM, XATTR_HEADER.size, hashed=True)
    header = XattrHeader(hash=block_hash)
    checksum = xattr_block_checksum(seed, number, XATTR_HEADER.pack(*header) + body)
    return XATTR_HEADER.pack(*header._replace(checksum=checksum)) + body


def decode_xattrs(area: bytes, base: int, where: str) -> dict[bytes, bytes]:
    """Return the attributes of an inode's spare bytes or of a block.

    Args:
        area: What the values' offsets count from, to its end.
        base: Where the first entry begins in `area`.
        where: What is read, for messages.

    Raises:
        FormatError: An entry reaches out of the area, or is of a kind that is not supported.
    """
    found: dict[bytes, bytes] = {}
    offset = base
    room = len(area)
    while area[offset : offset + len(_END)] != _END:
        if offset + XATTR_ENTRY.size > len(area):
            raise FormatError(f"the extended attributes of {where} have no end")
        entry = XattrEntry(*XATTR_ENTRY.unpack_from(area, offset))
        name_start = offset + XATTR_ENTRY.size
        offset = name_start + _padded(entry.name_length)
        name = area[name_start : name_start + entry.name_length]
        value = area[entry.value_offset : entry.value_offset + entry.value_size]
        if entry.value_inode or entry.name_index not in NAMES_BY_INDEX:
            raise FormatError(f"{where} has an extended attribute of a kind that is not supported")
        room -= len(value)
        # Values that overlap would make a small image fill a large memory.
        if offset > len(area) or len(value) != entry.value_size or room < 0:
            raise FormatError(f"an extended attribute of {where} reaches out of its place")
        full_name = NAMES_BY_INDEX[entry.name_index] + name
        if entry.name_index in (INDEX_ACL_ACCESS, INDEX_ACL_DEFAULT):
            value = acl_from_disk(value)
        found[full_name] = value
    return found


def acl_to_disk(value: bytes) -> bytes:
    """Return the stored form of an ACL in user-space form.

    Raises:
        FormatError: It is not an ACL of version 2.
    """
    body = value[len(_ACL_USER_VERSION) :]
    if not value.startswith(_ACL_USER_VERSION) or len(body) % _ACL_ENTRY.size:
        raise FormatError("a POSIX ACL is not in the form of version 2")
    pieces = [_ACL_DISK_VERSION]
    for tag, permissions, identity in _ACL_ENTRY.iter_unpack(body):
        if tag in _ACL_TAGS_WITHOUT_ID:
            pieces.append(_ACL_SHORT_ENTRY.pack(tag, permissions))
        elif tag in _ACL_TAGS_WITH_ID:
            pieces.append(_ACL_ENTRY.pack(tag, permissions, identity))
        else:
            raise FormatError(f"a POSIX ACL has an entry of the unknown kind {tag:#x}")
    return b"".join(pieces)


def acl_from_disk(value: bytes) -> bytes:
    """Return the user-space form of a stored ACL.

    Raises:
        FormatError: It is not an ACL of version 1.
    """
    if not value.startswith(_ACL_DISK_VERSION):
        raise FormatError("a stored POSIX ACL is not of version 1")
    pieces = [_ACL_USER_VERSION]
    offset = len(_ACL_DISK_VERSION)
    while offset < len(value):
        if len(value) - offset < _ACL_SHORT_ENTRY.size:
            raise FormatError("a stored POSIX ACL is cut short")
        tag, permissions = _ACL_SHORT_ENTRY.unpack_from(value, offset)
        if tag in _ACL_TAGS_WITHOUT_ID:
            pieces.append(_ACL_ENTRY.pack(tag, permissions, _ACL_NO_ID))
            offset += _ACL_SHORT_ENTRY.size
        elif tag in _ACL_TAGS_WITH_ID and len(value) - offset >= _ACL_ENTRY.size:
            pieces.append(value[offset : offset + _ACL_ENTRY.size])
            offset += _ACL_ENTRY.size
        else:
            raise FormatError("a stored POSIX ACL has an entry of an unknown kind, or is cut short")
    return b"".join(pieces)


def _stored(name: bytes, value: bytes) -> StoredXattr:
    index = WHOLE_NAMES.get(name)
    if index is not None:
        return StoredXattr(index, 0, b"", acl_to_disk(value))
    prefix, dot, rest = name.partition(b".")
    index = PREFIXES.get(prefix + dot)
    if index is None or not rest or len(rest) > 255 or b"\0" in rest:
        raise FormatError(
            f"ext4 cannot store an extended attribute named {name!r}",
            hint="names begin with user., trusted. or security.; ACLs are system.posix_acl_*",
        )
    return StoredXattr(index, len(rest), rest, value)


def _entries(
    xattrs: list[StoredXattr] | tuple[StoredXattr, ...], room: int, base: int, *, hashed: bool
) -> tuple[bytes, int]:
    """Return `room` bytes with entries from the front and values from the back, and the block's hash."""
    front: list[bytes] = []
    back: list[bytes] = []
    end = room
    block_hash = 0
    for index, name_length, name, value in xattrs:
        padded_value = value.ljust(_padded(len(value)), b"\0")
        end -= len(padded_value)
        back.append(padded_value)
        # e2fsck checks a hash wherever it is not zero; the kernel keeps none in inodes.
        entry_hash = _entry_hash(name, padded_value) if hashed else 0
        block_hash = (block_hash << 16 ^ block_hash >> 16 ^ entry_hash) & _MASK
        offset = base + end if value else 0
        front.append(XATTR_ENTRY.pack(*XattrEntry(name_length, index, offset, 0, len(value), entry_hash)))
        front.append(name.ljust(_padded(name_length), b"\0"))
    head = b"".join(front)
    return head.ljust(end, b"\0") + b"".join(reversed(back)), block_hash


def _entry_hash(name: bytes, padded_value: bytes) -> int:
    """Return an entry's hash: five bits of rotation a name byte, sixteen a value word."""
    result = 0
    for byte in name:
        result = (result << 5 ^ result >> 27 ^ byte) & _MASK
    for (word,) in WORD.iter_unpack(padded_value):
        result = (result << 16 ^ result >> 16 ^ word) & _MASK
    return result


def _padded(size: int) -> int:
    return -(-size // 4) * 4
