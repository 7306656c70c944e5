"""An image's files as a requirement's check sees them, and what a check is.

An image may be hostile: what is read is bounded, and nothing of it is executed or trusted.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bouvet.errors import FormatError
from bouvet.formats.elf import IDENTIFYING, Elf, code_architecture, read_elf
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree, Inode
from bouvet.image.expectation import Expectation

TEXT_LIMIT = 16 << 20
"""The most bytes of text that are read in all. Files may share blocks: a small image can hold much."""

_HEAD = 4096
_SHOWN = 3
_EXECUTABLE = 0o111
_FOUND_LENGTH = 200
_MAXIMUM_SHELL_LINE = 8192


class Finding(NamedTuple):
    """What a check found, and whether that meets its requirement."""

    passed: bool
    found: str


class Guest:
    """The files of an image that are checked.

    Paths are absolute, as in the booted guest. A method that reads raises FileNotFoundError where there
    is no such file, and FormatError where it is not of the kind or the size that it must be.

    Args:
        path: The image.
        reader: The image's file system.
        tree: All its files.
        expected: What it is checked against.
    """

    def __init__(self, path: Path, reader: Ext4Reader, tree: FileTree, expected: Expectation) -> None:
        self.path = path
        self.expected = expected
        self.facts = reader.facts
        self._reader = reader
        self.tree = tree
        self._text_left = TEXT_LIMIT

    def entry(self, path: str) -> Inode | None:
        """Return what is at a path, without following a symbolic link at its end; None if nothing is."""
        parent, _, name = path.rpartition("/")
        try:
            directory = self._reader.resolve(parent.encode())
        except FileNotFoundError:
            return None
        return self.tree.get((directory + b"/" if directory else b"") + name.encode())

    def real_path(self, path: str) -> str:
        """Return the absolute path without symbolic links that a path leads to."""
        try:
            return "/" + self._reader.resolve(path.encode()).decode(errors="backslashreplace")
        except FileNotFoundError:
            raise FileNotFoundError(path) from None

    def file(self, path: str) -> Inode:
        """Return the regular file that a path leads to."""
        try:
            inode = self.tree[self._reader.resolve(path.encode())]
        except (FileNotFoundError, KeyError):
            raise FileNotFoundError(path) from None
        if not inode.is_regular:
            raise FormatError(f"{path} is no regular file")
        return inode

    def exists(self, path: str) -> bool:
        """Return whether a path leads to something."""
        try:
            self._reader.resolve(path.encode())
        except FileNotFoundError:
            return False
        return True

    def text(self, path: str) -> str:
        """Return the text of the file that a path leads to."""
        inode = self.file(path)
        if inode.size > self._text_left:
            raise FormatError(f"{path} has {inode.size} bytes, too many to be read")
        self._text_left -= inode.size
        return inode.content().decode(errors="replace")

    def files_below(self, directory: str) -> Iterator[tuple[str, Inode]]:
        """Yield everything below a directory that is not itself a directory."""
        prefix = directory.strip("/").encode() + b"/"
        for path, inode in self.tree.items():
            if path.startswith(prefix) and not inode.is_directory:
                yield "/" + path.decode(errors="backslashreplace"), inode

    def directories_named(self, name: str) -> list[str]:
        """Return the paths of all directories with a name."""
        suffix = b"/" + name.encode()
        return [
            "/" + path.decode(errors="backslashreplace")
            for path, inode in self.tree.items()
            if inode.is_directory and path.endswith(suffix)
        ]

    def elf(self, path: str) -> Elf:
        """Return what the head of an ELF file says."""
        return read_elf(self._head(self.file(path)))

    def code(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each program and library, and the architecture that it is for."""
        known: dict[int, str | None] = {}  # a file may have many names
        for path, inode in self.tree.items():
            if inode.is_regular and inode.size >= IDENTIFYING:
                if id(inode) not in known:
                    known[id(inode)] = code_architecture(self._head(inode, IDENTIFYING))
                if (architecture := known[id(inode)]) is not None:
                    yield "/" + path.decode(errors="backslashreplace"), architecture

    def executable(self, path: str) -> str:
        """Return the real path of a program: an executable file that this machine could start.

        Raises:
            FileNotFoundError: There is none.
            FormatError: It cannot be executed, or is for another architecture.
        """
        real, inode = self.real_path(path), self.file(path)
        head = self._head(inode)
        if inode.mode & _EXECUTABLE != _EXECUTABLE:
            raise FormatError(f"{path} is not executable: mode {inode.mode & 0o7777:04o}")
        if not head.startswith(b"#!"):
            try:
                architecture = read_elf(head).architecture
            except FormatError as error:
                raise FormatError(f"{path} is no program: {error.message}") from None
            if architecture != self.architecture:
                raise FormatError(f"{path} is for {architecture}, not {self.architecture}")
        return real

    def program(self, name: str) -> str:
        """Return the real path of the program that a name means: the first on PATH."""
        for directory in self.expected.path:
            path = f"{directory}/{name}"
            if self.exists(path):
                return self.executable(path)
        raise FileNotFoundError(name)

    @functools.cached_property
    def architecture(self) -> str:
        """The architecture: the expected one, else that of the shell."""
        return self.expected.architecture or self.elf("/bin/bash").architecture

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """The installed Debian packages and their versions (deb-control(5))."""
        found: dict[str, str] = {}
        for paragraph in self.text("/var/lib/dpkg/status").split("\n\n"):
            lines = paragraph.splitlines()
            fields = {
                key: value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon
            }
            if fields.get("Status") == "install ok installed":
                found[fields.get("Package", "")] = fields.get("Version", "")
        return found

    def version(self, package: str) -> str:
        """Return an installed package's version.

        Raises:
            FormatError: It is not installed.
        """
        if package not in self.versions:
            raise FormatError(f"the package {package} is not installed")
        return self.versions[package]

    @staticmethod
    def _head(inode: Inode, length: int = _HEAD) -> bytes:
        first = inode.segments[0] if inode.segments else None
        if first is None or first.file_offset:
            return b""
        return first.source.read(first.source_offset, min(first.length, length))


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that must be so, and the check of it.

    Attributes:
        area: The part of the image that it concerns.
        text: What must be so.
        check: Looks at the image.
    """

    area: str
    text: str
    check: Callable[[Guest], Finding]

    def judge(self, guest: Guest) -> Finding:
        """Return what the check found; what cannot be read does not meet the requirement."""
        try:
            passed, found = self.check(guest)
        except FileNotFoundError as error:
            passed, found = False, f"{error} is missing"
        except FormatError as error:
            passed, found = False, error.message
        return Finding(passed, one_line(found))


def one_line(text: str) -> str:
    """Return text as one printable line of at most 200 characters."""
    lines = (line.strip() for line in text[: 4 * _FOUND_LENGTH].strip().splitlines())
    line = "".join(c if c.isprintable() else "?" for c in " | ".join(lines))
    return line if len(line) <= _FOUND_LENGTH else line[: _FOUND_LENGTH - 3] + "..."


def none_of(paths: Iterable[str]) -> Finding:
    """Return the finding where there should be no such path."""
    first, count = [], 0
    for path in paths:
        count += 1
        if count <= _SHOWN:
            first.append(path)
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return Finding(not count, ", ".join(first) + more if count else "none")


def shell_words(text: str) -> list[str]:
    """Return a line's words, unquoted as a shell does.

    Raises:
        FormatError: The quotes do not match, or the line is longer than 8192 characters.
    """
    # The time that it takes grows with the square of a word's length.
    if len(text) > _MAXIMUM_SHELL_LINE:
        raise FormatError(f"a line of {len(text)} characters is too long")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise FormatError(f"a line's quotes do not match: {text}") from error
