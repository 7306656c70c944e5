"""Files of the host that a spec names, and texts that it holds: what they are, and a digest over it.

Only what can be the same on every host counts: names, contents, links, and whether a file is executable.
Owners, times and the other permission bits of the host are left behind.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bouvet.errors import LayerError, SpecError

MAXIMUM_TEMPLATE = 4 << 20
"""Bytes that a template may have."""

Change = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One file, directory or symbolic link.

    Attributes:
        path: Its path below the file or directory that was named, which itself is `b""`.
        mode: Type and permission bits, as in `st_mode`: 0755 for directories and executables, else 0644.
        size: Bytes of a file's content, 0 else.
        sha256: The digest of a file's content, empty else.
        content: A file's bytes, or where they are on the host.
        target: A symbolic link's target.
    """

    path: bytes
    mode: int
    size: int = 0
    sha256: bytes = b""
    content: bytes | Path = b""
    target: bytes = b""

    def read(self) -> bytes:
        """Return a small file's bytes.

        Raises:
            LayerError: They are not what they were when the digest was made.
        """
        content = self.content
        if isinstance(content, Path):
            content = content.read_bytes() if content.is_file() else b""
        if hashlib.sha256(content).digest() != self.sha256:
            raise changed(self)
        return content


def changed(entry: HostEntry) -> LayerError:
    """Return the error for a file that is not what it was when the plan was made."""
    return LayerError(f"{entry.content!s} was changed while the image was being made", hint="build again")


@dataclass(frozen=True, slots=True)
class HostFiles:
    """A file or a directory with what is in it, directories before their entries.

    Attributes:
        entries: The entries, sorted.
        digest: SHA-256 over all of them, in hexadecimal.
    """

    entries: tuple[HostEntry, ...]
    digest: str

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.entries[0].mode)


def text(content: str) -> HostFiles:
    """Return a text as a file."""
    return _collected([_in_memory(b"", content.encode(), executable=False)])


def read(path: Path, *, exclude: Sequence[str] = (), change: Change | None = None) -> HostFiles:
    """Read a file of the host, or a directory with all that is in it.

    Args:
        path: Where it is; links on the way are followed, links in a directory are kept as they are.
        exclude: Patterns of what is left out of a directory: of a name, or of a relative path if there is
            a `/` in it.
        change: Is given every file's text, and returns what is taken instead.

    Raises:
        SpecError: It is not there, cannot be read, or is neither file, directory nor link; with `change`,
            it is no text or too long.
    """
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            own = HostEntry(b"", stat.S_IFDIR | 0o755)
            entries = [own, *_below(os.fsencode(path), b"", [os.fsencode(each) for each in exclude], change)]
            return _collected(entries)
        return _collected([_file(os.fsencode(path), b"", state, change)])
    except OSError as error:
        raise SpecError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _below(
    directory: bytes, place: bytes, exclude: Sequence[bytes], change: Change | None
) -> Iterator[HostEntry]:
    """Yield what is in a directory, sorted by name."""
    with os.scandir(directory) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        path = directory + b"/" + name
        below = place + b"/" + name if place else name
        if any(fnmatch.fnmatchcase(below if b"/" in each else name, each.rstrip(b"/")) for each in exclude):
            continue
        state = os.lstat(path)
        if stat.S_ISDIR(state.st_mode):
            yield HostEntry(below, stat.S_IFDIR | 0o755)
            yield from _below(path, below, exclude, change)
        elif stat.S_ISLNK(state.st_mode):
            yield HostEntry(below, stat.S_IFLNK | 0o777, target=os.readlink(path))  # noqa: PTH115  (bytes)
        else:
            yield _file(path, below, state, change)


def _file(path: bytes, place: bytes, state: os.stat_result, change: Change | None) -> HostEntry:
    where = Path(os.fsdecode(path))
    if not stat.S_ISREG(state.st_mode):
        raise SpecError(
            f"{where} is neither a file nor a directory", hint="leave it out with the file's 'exclude'"
        )
    executable = bool(state.st_mode & 0o100)
    if change is not None:
        return _in_memory(place, _changed(where, state.st_size, change), executable=executable)
    with where.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    mode = stat.S_IFREG | (0o755 if executable else 0o644)
    return HostEntry(place, mode, size, digest.digest(), where)


def _changed(path: Path, size: int, change: Change) -> bytes:
    if size > MAXIMUM_TEMPLATE:
        raise SpecError(f"{path} has {size} bytes; a template may have {MAXIMUM_TEMPLATE}")
    try:
        return change(path.read_bytes().decode()).encode()
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text, and so no template: {error}") from error


def _in_memory(place: bytes, content: bytes, *, executable: bool) -> HostEntry:
    mode = stat.S_IFREG | (0o755 if executable else 0o644)
    return HostEntry(place, mode, len(content), hashlib.sha256(content).digest(), content)


def _collected(entries: list[HostEntry]) -> HostFiles:
    digest = hashlib.sha256()
    for entry in entries:
        for part in (entry.path, b"%o" % entry.mode, entry.sha256, entry.target):
            digest.update(b"%d:" % len(part) + part)
    return HostFiles(tuple(entries), digest.hexdigest())
