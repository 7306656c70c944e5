"""cpio archives in the "newc" format, as the Linux kernel unpacks them into its initial file system.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Every entry is a header
of 110 characters (the magic and thirteen numbers of eight hexadecimal digits), the name with a final
NUL, and the content; name and content are each padded with NULs to a multiple of 4 bytes. An entry named
`TRAILER!!!` ends the archive.

Equal entries give equal bytes: inode numbers count from 1, and nothing is taken from the clock.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from bouvet.errors import FormatError

MAGIC = b"070701"
TRAILER = b"TRAILER!!!"
ALIGNMENT = 512
"""An archive's length in bytes is a multiple of this, as GNU cpio makes it by default."""

MAX_NUMBER = 0xFFFFFFFF
MAX_NAME = 4096
"""Bytes of a name with its NUL: the kernel's PATH_MAX, beyond which it skips the entry."""

_HEADER = struct.Struct("6s" + "8s" * 13)
assert _HEADER.size == 110


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """One file, directory, symbolic link or device node.

    Attributes:
        name: The path without a leading slash.
        mode: Type and permission bits, as in `st_mode`.
        content: A regular file's bytes, or a symbolic link's target.
        uid: Owner, 0 to 2**32 - 1.
        gid: Group, 0 to 2**32 - 1.
        mtime: Seconds since 1970, 0 to 2**32 - 1.
        device: (major, minor) of a device node.
    """

    name: bytes
    mode: int
    content: bytes = b""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


def write_archive(entries: Iterable[CpioEntry]) -> bytes:
    """Return an archive of the entries, in their order: parents have to come before their children.

    Raises:
        FormatError: A name is impossible, or a number or a content is beyond 32 bits.
    """
    out = bytearray()
    for number, entry in enumerate(entries, start=1):
        _check(entry)
        _append(out, entry, number, links=2 if stat.S_ISDIR(entry.mode) else 1)
    _append(out, CpioEntry(TRAILER, 0), 0, links=1)
    return bytes(out.ljust(_padded(len(out), ALIGNMENT), b"\0"))


def read_archive(archive: bytes) -> list[CpioEntry]:
    """Return the entries of an archive.

    Raises:
        FormatError: The bytes are no archive of this kind, or it is cut short.
    """
    entries: list[CpioEntry] = []
    place = 0
    while True:
        entry, place = _read_entry(archive, place)
        if entry.name == TRAILER:
            return entries
        entries.append(entry)


def _check(entry: CpioEntry) -> None:
    parts = entry.name.split(b"/")
    if b"\0" in entry.name or b"" in parts or b".." in parts or entry.name == TRAILER:
        raise FormatError(f"{entry.name!r} cannot be a name in an initial file system")
    if len(entry.name) >= MAX_NAME:
        raise FormatError(f"the name {entry.name[:64]!r}... is longer than {MAX_NAME - 1} bytes")
    numbers = (entry.mode, entry.uid, entry.gid, entry.mtime, len(entry.content), *entry.device)
    if not all(0 <= number <= MAX_NUMBER for number in numbers):
        raise FormatError(f"{entry.name!r} has a number or a size beyond 32 bits")


def _append(out: bytearray, entry: CpioEntry, number: int, *, links: int) -> None:
    name = entry.name + b"\0"
    out += b"%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X" % (
        MAGIC,
        number,
        entry.mode,
        entry.uid,
        entry.gid,
        links,
        entry.mtime,
        len(entry.content),
        *(0, 0),  # the device that the file was on
        *entry.device,
        len(name),
        0,  # the checksum, which this variant does not have
    )
    for piece in (name, entry.content):
        out += piece
        out += bytes(-len(out) % 4)


def _read_entry(archive: bytes, place: int) -> tuple[CpioEntry, int]:
    if place + _HEADER.size > len(archive):
        raise FormatError(f"the archive ends at {len(archive)}, within a header")
    magic, *fields = _HEADER.unpack_from(archive, place)
    try:
        numbers = [int(field, 16) for field in fields]
    except ValueError:
        numbers = []
    if magic != MAGIC or not numbers:
        raise FormatError(f"there is no newc header at {place}")
    _, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, _ = numbers
    start = place + _HEADER.size
    content = start + name_size + -(start + name_size) % 4
    end = content + size
    if not 0 < name_size <= MAX_NAME or archive[start + name_size - 1 : start + name_size] != b"\0":
        raise FormatError(f"the entry at {place} has no proper name")
    if end > len(archive):
        raise FormatError(f"the archive ends at {len(archive)}, within a file")
    name = archive[start : start + name_size - 1]
    entry = CpioEntry(name, mode, archive[content:end], uid, gid, mtime, (major, minor))
    return entry, _padded(end, 4)


def _padded(length: int, alignment: int) -> int:
    return length + -length % alignment
