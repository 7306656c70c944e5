"""`.deb` files whose content is not compressed: what dpkg unpacks without waiting for a decompressor.

    DOWNLOADS/plain/SHA256.CRC32C

SHA256 is the digest of the `.deb` that the file was made from, CRC32C that of its own bytes, checked each
time before it is used. The control member is the original's; the data member is `data.tar`.

Source: deb(5), ar(5).
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import google_crc32c

from bouvet import process
from bouvet.errors import FormatError

MAGIC = b"!<arch>\n"

_HEADER = struct.Struct("=16s12s6s6s8s10s2s")  # name, time, owner, group, mode, size, end
assert _HEADER.size == 60
_END = b"`\n"
_DATA = b"data.tar"
_PIECE = 1 << 18
_KEPT = re.compile(r"(?P<sha256>[0-9a-f]{64})\.(?P<crc32c>[0-9a-f]{8})")


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an ar archive: its name, where its bytes begin in the file, and how many they are."""

    name: bytes
    offset: int
    size: int


class PlainDebs:
    """The kept files, for one build. Threads may use it at the same time.

    Args:
        directory: Where they are kept; it is made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._kept: dict[str, Path] = {}
        for path in sorted(directory.iterdir()):
            if found := _KEPT.fullmatch(path.name):
                self._kept[found["sha256"]] = path

    def link(self, deb: Path, target: Path) -> None:
        """Put a `.deb` as a plain one at another path on the file system where they are kept.

        Raises:
            FormatError: It is no `.deb`.
            OSError: It cannot be written.
        """
        with deb.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept = self._kept.get(digest)
        if kept is not None:
            # Another build may drop it at any time.
            with contextlib.suppress(FileNotFoundError):
                if _checksum(kept) == kept.name.rpartition(".")[2]:
                    os.link(kept, target)
                    return
                kept.unlink()
        # Made beside the target, which is this build's alone: nobody else removes it meanwhile.
        descriptor, name = tempfile.mkstemp(dir=target.parent)
        made = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as plain, deb.open("rb") as file:
                write_plain(file, plain)
            with contextlib.suppress(FileExistsError):
                os.link(made, self._directory / f"{digest}.{_checksum(made)}")
            made.rename(target)
        except BaseException:
            made.unlink(missing_ok=True)
            raise


def drop_others(directory: Path, digests: set[str]) -> None:
    """Remove the kept files that were made from others than the `.deb` files of these SHA-256 digests."""
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.name.partition(".")[0] not in digests:
                path.unlink(missing_ok=True)


def members(file: IO[bytes]) -> Iterator[Member]:
    """Yield a `.deb`'s members.

    Raises:
        FormatError: It is none.
    """
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise FormatError("a package is no ar archive")
    offset = len(MAGIC)
    while header := file.read(_HEADER.size):
        if len(header) != _HEADER.size:
            raise FormatError("a package ends within a member's header")
        name, _, _, _, _, size, end = _HEADER.unpack(header)
        if end != _END or not size.strip().isdigit():
            raise FormatError("a package has a damaged member")
        offset += _HEADER.size
        yield Member(name.rstrip(b" ").rstrip(b"/"), offset, int(size))
        offset += int(size) + int(size) % 2
        file.seek(offset)


def data_member(file: IO[bytes]) -> Member:
    """Return the member that holds a `.deb`'s files.

    Raises:
        FormatError: It has none.
    """
    for member in members(file):
        if member.name.partition(b".tar")[0] == b"data":
            return member
    raise FormatError("a package has no data")


def write_plain(deb: IO[bytes], target: IO[bytes]) -> None:
    """Write a `.deb` with its data decompressed.

    Args:
        deb: A file open for reading; one on a disk.
        target: An empty file open for writing.

    Raises:
        FormatError: It is no `.deb`, or damaged.
    """
    target.write(MAGIC)
    for member in members(deb):
        name, start = member.name, target.tell()
        if name.partition(b".tar")[0] == b"data":
            name = _DATA
            target.write(bytes(_HEADER.size))
            _write_data(deb, member, target)
        else:
            target.write(bytes(_HEADER.size))
            for piece in _pieces(deb, member):
                target.write(piece)
        stop = target.tell()
        size = stop - start - _HEADER.size
        target.seek(start)
        fields = (name.ljust(16), b"0".ljust(12), b"0".ljust(6), b"0".ljust(6), b"100644".ljust(8))
        target.write(_HEADER.pack(*fields, b"%-10d" % size, _END))
        target.seek(stop)
        target.write(b"\n" * (size % 2))


def _write_data(deb: IO[bytes], member: Member, target: IO[bytes]) -> None:
    decompressor: _Decompressor
    match member.name.removeprefix(_DATA):
        case b"":
            target.writelines(_pieces(deb, member))
            return
        case b".xz":
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        case b".gz":
            decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
        case _:
            target.flush()
            argv = [process.find_tool("dpkg-deb", package="dpkg"), "--fsys-tarfile", deb.name]
            with process.start(argv, stdout=target, stderr=2) as child:
                if child.wait():
                    raise FormatError(f"dpkg-deb cannot read {deb.name}")
            target.seek(0, os.SEEK_END)
            return
    try:
        for piece in _pieces(deb, member):
            target.write(decompressor.decompress(piece))
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise FormatError(f"the data of {Path(deb.name).name} is damaged: {error}") from error
    if not getattr(decompressor, "eof", True):
        raise FormatError(f"the data of {Path(deb.name).name} ends too early")


def _pieces(file: IO[bytes], member: Member) -> Iterator[bytes]:
    file.seek(member.offset)
    left = member.size
    while left:
        piece = file.read(min(_PIECE, left))
        if not piece:
            raise FormatError("a package ends within a member")
        left -= len(piece)
        yield piece


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            checksum = google_crc32c.extend(checksum, piece)
    return f"{checksum:08x}"
