"""Trees of files as tar archives, from a guest and to it.

What comes from a guest is hostile: it is read by a parser of our own that holds little of it at once, and
put into a new directory, name by name, without following any link.

Source of the format: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; the long names
of GNU tar ("Extensions to the archive format", GNU tar manual) are read too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from bouvet.errors import AgentError

BLOCK = 512
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
assert _HEADER.size == BLOCK

ATTRIBUTES_LIMIT = 1 << 16
"""Bytes of an entry's extended attributes, or of a long name."""

ENTRIES_LIMIT = 1 << 20
"""Entries that a tree has at most."""

PATH_LIMIT = 4096
DEPTH_LIMIT = 256

_MODE = 0o755
"""Permissions that an entry can have here: nobody else may write, and nothing changes its user."""

_CONTRADICTIONS = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EPERM})
"""What the system says where an archive wants one name to be two things, or links to what is not there."""

_PIECE = 1 << 20
_SIZE_LIMIT = 1 << 43


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of an archive.

    Attributes:
        path: Its name.
        kind: The type flag of its header.
        mode: Its permissions.
        size: How many bytes of content follow.
        mtime: When it was changed, in seconds since 1970.
        link: What a link points to.
    """

    path: bytes
    kind: bytes
    mode: int
    size: int
    mtime: float
    link: bytes


class PieceReader:
    """Reads exact lengths from pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, length: int) -> bytes:
        """Return so many bytes.

        Raises:
            AgentError: There are fewer.
        """
        return b"".join(bytes(piece) for piece in self.pieces(length))

    def pieces(self, length: int) -> Iterator[memoryview]:
        """Yield so many bytes.

        Raises:
            AgentError: There are fewer.
        """
        while length:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    raise AgentError("the guest's archive ends in the middle")
                self._rest = memoryview(piece)
            taken = self._rest[:length]
            self._rest = self._rest[len(taken) :]
            length -= len(taken)
            yield taken

    def drain(self) -> None:
        """Read on to the end, which may still tell of an error."""
        for _ in self._pieces:
            pass


def read_entries(reader: PieceReader) -> Iterator[Entry]:
    """Yield an archive's entries; the content of each has to be read before the next is asked for.

    Raises:
        AgentError: It is no archive, or a limit is reached.
    """
    attributes: dict[bytes, bytes] = {}
    count = 0
    while (entry := _read_header(reader)) is not None:
        count += 1
        if count > ENTRIES_LIMIT:
            raise AgentError(f"the guest's archive has more than {ENTRIES_LIMIT} entries")
        if entry.kind in b"xgLK":
            if entry.size > ATTRIBUTES_LIMIT:
                raise AgentError(f"an entry's attributes in the guest's archive have {entry.size} bytes")
            content = reader.read(entry.size)
            reader.read(-entry.size % BLOCK)
            if entry.kind == b"x":
                attributes |= _parse_attributes(content)
            elif entry.kind in b"LK":
                attributes[b"path" if entry.kind == b"L" else b"linkpath"] = content.rstrip(b"\0")
            continue
        yield _with_attributes(entry, attributes)
        attributes = {}


def _read_header(reader: PieceReader) -> Entry | None:
    """Return the next header; None at the archive's end, a block of zeros."""
    block = reader.read(BLOCK)
    if not any(block):
        return None
    name, mode, _, _, size, mtime, checksum, kind, link, magic, _, _, _, _, _, prefix = _HEADER.unpack(block)
    if _number(checksum) != sum(block) - sum(checksum) + len(checksum) * ord(" "):
        raise AgentError("the guest's archive has a header with a wrong checksum")
    path = name.partition(b"\0")[0]
    if magic == b"ustar\0" and prefix[0]:
        path = prefix.partition(b"\0")[0] + b"/" + path
    has_content = kind in b"0\0007xgLK"
    return Entry(
        path,
        kind,
        _number(mode) & 0o7777,
        _number(size) if has_content else 0,
        float(_number(mtime)),
        link.partition(b"\0")[0],
    )


def _number(field: bytes) -> int:
    """Read octal digits, or GNU's base-256 form of larger numbers."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if not all(digit in b"01234567" for digit in digits):
            raise AgentError("the guest's archive has a header with a wrong number")
        value = int(digits or b"0", 8)
    if value > _SIZE_LIMIT:
        raise AgentError("the guest's archive has a number over every limit")
    return value


def _parse_attributes(content: bytes) -> dict[bytes, bytes]:
    """Read records: length, space, key, `=`, value and a newline, which the length counts all."""
    found = {}
    while content:
        digits, space, _ = content.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 7 else 0
        key, equals, value = content[len(digits) + 1 : length].partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(content):
            raise AgentError("the guest's archive has wrong attributes")
        found[key] = value[:-1]
        content = content[length:]
    return found


def _with_attributes(entry: Entry, attributes: dict[bytes, bytes]) -> Entry:
    if any(key.startswith(b"GNU.sparse") for key in attributes):
        raise AgentError("the guest's archive has a sparse file in a form that is not read")
    size, mtime = entry.size, entry.mtime
    try:
        if b"size" in attributes:
            size = int(attributes[b"size"])
        if b"mtime" in attributes:
            mtime = float(attributes[b"mtime"])
    except ValueError as error:
        raise AgentError("the guest's archive has wrong attributes") from error
    if not 0 <= size <= _SIZE_LIMIT or not -_SIZE_LIMIT < mtime < _SIZE_LIMIT:
        raise AgentError("the guest's archive has a number over every limit")
    return Entry(
        attributes.get(b"path", entry.path),
        entry.kind,
        entry.mode,
        size,
        mtime,
        attributes.get(b"linkpath", entry.link),
    )


def extract(pieces: Iterator[bytes], target: Path, *, limit: int) -> None:
    """Make a new directory from an archive of a guest's. It appears in one piece, or not at all.

    Files get the caller's owner, and permissions without setuid, setgid and writing by others; their owner
    may always read and write them. Symbolic
    links are made as they are, wherever they point to, and never followed.

    Args:
        pieces: The archive.
        target: The directory; it may not exist.
        limit: Bytes that all files together may have.

    Raises:
        AgentError: It is no archive, an entry is not a file, a directory or a link, lies outside of the
            tree, or a limit is reached.
        OSError: It cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    temporary.mkdir(mode=0o700)
    try:
        root = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Extraction(root, limit).run(PieceReader(pieces))
        finally:
            os.close(root)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class _Extraction:
    """The making of a tree below a directory that nobody else knows."""

    def __init__(self, root: int, limit: int) -> None:
        self._root = root
        self._left = limit

    def run(self, reader: PieceReader) -> None:
        for entry in read_entries(reader):
            self._left -= entry.size
            if self._left < 0:
                raise AgentError("the guest's files are larger than the limit")
            try:
                self._make(entry, reader)
            except OSError as error:
                if error.errno in _CONTRADICTIONS:
                    raise _refused(entry, f"contradicts those before it: {error.strerror}") from error
                raise
            for _ in reader.pieces(-entry.size % BLOCK):
                pass
        reader.drain()

    def _make(self, entry: Entry, reader: PieceReader) -> None:
        names = split_path(entry.path)
        mode = entry.mode & _MODE
        if entry.kind == b"5":
            with self._directory(names) as directory:
                os.fchmod(directory, mode | stat.S_IRWXU)
            return
        if not names:
            raise _refused(entry, "is the tree itself, and no directory")
        with self._directory(names[:-1]) as parent:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(names[-1], dir_fd=parent)
            if entry.kind in b"0\0007":
                self._write(parent, names[-1], entry, mode | stat.S_IRUSR | stat.S_IWUSR, reader)
            elif entry.kind == b"2":
                if not entry.link or b"\0" in entry.link or len(entry.link) >= PATH_LIMIT:
                    raise _refused(entry, "points to what is no path")
                os.symlink(entry.link, names[-1], dir_fd=parent)
            elif entry.kind == b"1":
                source = split_path(entry.link)
                if not source:
                    raise _refused(entry, "is a second name of a directory")
                with self._directory(source[:-1], create=False) as other:
                    os.link(source[-1], names[-1], src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
            else:
                raise _refused(entry, "is neither a file, a directory nor a link")

    def _write(self, parent: int, name: bytes, entry: Entry, mode: int, reader: PieceReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for piece in reader.pieces(entry.size):
                write_all(file.fileno(), piece)
            os.fchmod(file.fileno(), mode)
            os.utime(file.fileno(), (entry.mtime, entry.mtime))

    @contextlib.contextmanager
    def _directory(self, names: tuple[bytes, ...], *, create: bool = True) -> Iterator[int]:
        """Yield a directory's descriptor; walked to name by name, no link is followed."""
        current = os.dup(self._root)
        try:
            for name in names:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=current)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                following = os.open(name, flags, dir_fd=current)
                os.close(current)
                current = following
            yield current
        finally:
            os.close(current)


def split_path(path: bytes) -> tuple[bytes, ...]:
    """Return the names of a path inside of a tree; none for the tree itself.

    Raises:
        AgentError: It is absolute, leads out, or is too long.
    """
    names = tuple(name for name in path.split(b"/") if name not in (b"", b"."))
    outside = path.startswith(b"/") or b".." in names or b"\0" in path
    if outside or len(path) >= PATH_LIMIT or len(names) > DEPTH_LIMIT:
        raise AgentError(f"an entry of the guest's archive lies outside of it, or too deep: {path[:80]!r}")
    return names


def write_tree(source: Path, write: Callable[[bytes], int]) -> None:
    """Write a directory's content as an archive. Sockets are left out.

    Owners are root's: the guest has other users than the host.

    Args:
        source: The directory.
        write: Takes the archive's pieces.

    Raises:
        OSError: It cannot be read.
    """

    def as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    class Sink:
        def write(self, data: bytes) -> int:
            return write(data)

    if not source.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(source))
    stream = cast("IO[bytes]", Sink())
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_PIECE) as archive:
        for child in sorted(source.iterdir()):
            archive.add(child, child.name, filter=as_root)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write everything to a descriptor."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _refused(entry: Entry, why: str) -> AgentError:
    return AgentError(f"the entry {entry.path[:80]!r} of the guest's archive {why}")
