"""How two images differ: in their packages, their files and themselves.

Both images count as hostile: what is read of them has limits, and nothing of it is executed.
"""

from __future__ import annotations

import itertools
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bouvet.errors import FormatError, ImageError
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree, Inode, Segment
from bouvet.image.contents import check_is_image
from bouvet.image.packages import find_packages

PIECE = 1 << 20
"""Bytes of content that are held at once."""

_TIMES_READ = 16
"""How many times as much as both images hold may be read: files may share their blocks without end."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something of the images themselves that differs.

    Attributes:
        what: `size` in bytes, `label` or `uuid`.
        before: What it is in the first image.
        after: What it is in the second.
    """

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that differs.

    Attributes:
        kind: Its kind, as in its package URL.
        name: Its name.
        before: Its versions in the first image; empty if it is not there.
        after: Its versions in the second.
    """

    kind: str
    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is in both images and differs.

    Attributes:
        path: Its absolute path.
        aspects: In what it differs: `type` alone, or some of `content`, `mode`, `owner`, `mtime`,
            `xattrs`, `target`, `device` and `links` (the names that it has).
    """

    path: str
    aspects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two images differ.

    Attributes:
        image: What differs of the images themselves.
        packages: The packages that differ, by kind and name.
        added: Absolute paths of files that only the second image has.
        removed: Absolute paths of files that only the first image has.
        changed: The files that differ.
    """

    image: tuple[Change, ...]
    packages: tuple[PackageChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[FileChange, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.image or self.packages or self.added or self.removed or self.changed)


def compare_images(first: Path, second: Path) -> Comparison:
    """Return how two images differ.

    Raises:
        FormatError: One of them holds no ext4 file system, or a damaged one.
        ImageError: One of them cannot be opened or read.
    """
    for path in (first, second):
        check_is_image(path)
    try:
        with Ext4Reader(first) as before, Ext4Reader(second) as after:
            one, other = before.tree(), after.tree()
            limit = _TIMES_READ * (before.size + after.size)
            return Comparison(
                image=_image_changes(before, after),
                packages=_package_changes(one, other),
                added=tuple(_shown(path) for path in sorted(other.keys() - one.keys())),
                removed=tuple(_shown(path) for path in sorted(one.keys() - other.keys())),
                changed=tuple(_Comparing(one, other, limit).changes()),
            )
    except OSError as error:
        raise ImageError(f"cannot compare the images: {error.strerror or error}") from error


def _image_changes(before: Ext4Reader, after: Ext4Reader) -> tuple[Change, ...]:
    facts = [
        ("size", str(before.size), str(after.size)),
        ("label", before.facts.label, after.facts.label),
        ("uuid", str(before.facts.uuid), str(after.facts.uuid)),
    ]
    return tuple(Change(what, one, other) for what, one, other in facts if one != other)


def _package_changes(before: FileTree, after: FileTree) -> tuple[PackageChange, ...]:
    one, other = _versions(before), _versions(after)
    return tuple(
        PackageChange(kind, name, tuple(one[kind, name]), tuple(other[kind, name]))
        for kind, name in sorted(one.keys() | other.keys())
        if one[kind, name] != other[kind, name]
    )


def _versions(tree: FileTree) -> defaultdict[tuple[str, str], list[str]]:
    versions: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for package in find_packages(tree).packages:
        versions[package.kind, package.name].append(package.version)
    return versions


class _Comparing:
    """Compares the files that two trees both have.

    Args:
        before: The first tree.
        after: The second.
        limit: The most bytes of content that are read.
    """

    def __init__(self, before: FileTree, after: FileTree, limit: int) -> None:
        self._before, self._after = before, after
        self._left = limit
        self._links = _names(before), _names(after)
        self._same: dict[tuple[int, int], bool] = {}

    def changes(self) -> Iterator[FileChange]:
        """Yield the files that differ, by path."""
        for path in sorted(self._before.keys() & self._after.keys()):
            aspects = tuple(self._aspects(path))
            if aspects:
                yield FileChange(_shown(path), aspects)

    def _aspects(self, path: bytes) -> Iterator[str]:
        one, other = self._before[path], self._after[path]
        if stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
            yield "type"
            return
        if one.is_regular and not self._same_content(one, other):
            yield "content"
        if one.mode != other.mode:
            yield "mode"
        if (one.uid, one.gid) != (other.uid, other.gid):
            yield "owner"
        for aspect in ("mtime", "xattrs", "target", "device"):
            if getattr(one, aspect) != getattr(other, aspect):
                yield aspect
        if self._links[0].get(id(one)) != self._links[1].get(id(other)):
            yield "links"

    def _same_content(self, one: Inode, other: Inode) -> bool:
        """Compare two files' bytes, once for all names of the two."""
        if one.size != other.size:
            return False
        pair = id(one), id(other)
        if pair not in self._same:
            self._same[pair] = all(
                self._read(mine, start, length) == self._read(theirs, start, length)
                for start, length, mine, theirs in _pieces(one, other)
            )
        return self._same[pair]

    def _read(self, segment: Segment | None, start: int, length: int) -> bytes:
        """Return bytes of a file, zeros where it has no segment."""
        if segment is None:
            return bytes(length)
        self._left -= length
        if self._left < 0:
            raise FormatError("the images' files share so many blocks that they are not compared")
        return segment.source.read(segment.source_offset + start - segment.file_offset, length)


def _pieces(one: Inode, other: Inode) -> Iterator[tuple[int, int, Segment | None, Segment | None]]:
    """Yield start and length of pieces of two files with the segments that hold them; not of common holes."""
    edges = sorted(
        {edge for inode in (one, other) for each in inode.segments for edge in (each.file_offset, _end(each))}
    )
    mine, theirs = list(reversed(one.segments)), list(reversed(other.segments))
    for start, end in itertools.pairwise(edges):
        for waiting in (mine, theirs):
            while waiting and _end(waiting[-1]) <= start:
                waiting.pop()
        left = mine[-1] if mine and mine[-1].file_offset <= start else None
        right = theirs[-1] if theirs and theirs[-1].file_offset <= start else None
        if left is not None or right is not None:
            for place in range(start, end, PIECE):
                yield place, min(PIECE, end - place), left, right


def _end(segment: Segment) -> int:
    return segment.file_offset + segment.length


def _names(tree: FileTree) -> dict[int, list[bytes]]:
    """Return all names of the files that have more than one, by the identity of their inodes."""
    names: defaultdict[int, list[bytes]] = defaultdict(list)
    for path in sorted(tree):
        names[id(tree[path])].append(path)
    return {identity: paths for identity, paths in names.items() if len(paths) > 1}


def _shown(path: bytes) -> str:
    return "/" + path.decode(errors="backslashreplace")
