"""The file tree that layers produce and that image formats consume.

A tree maps absolute-less paths (bytes, `b"usr/bin/python3"`; the root is `b""`) to inodes. Hard links
are two paths that hold the *same* `Inode` object. A regular file's content is a list of segments of
byte sources, so that nothing is read or copied until an image is written; what no segment covers is a
hole and reads as zeros.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Protocol

BLOCK = 4096
"""Alignment in bytes of a segment's place in its file and in its source."""


class ByteSource(Protocol):
    """Random-access bytes that verify themselves: a layer's blob, or bytes in memory."""

    @property
    def identity(self) -> str | None:
        """What only a source of equal bytes shares, in this and later processes; None if it is not known."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            LayerCorrupt: The bytes are missing or not what they were when they were committed.
        """
        ...

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        """Copy exactly `length` bytes from `offset` to `target_offset` of the file descriptor `target`.

        Raises:
            LayerCorrupt: As for `read`.
            OSError: The target cannot be written.
        """
        ...


class MemorySource:
    """A byte source over bytes in memory."""

    identity: str | None = None

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`."""
        piece = self._content[offset : offset + length]
        assert len(piece) == length, "a segment reaches past its source"
        return piece

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        """Write `length` bytes from `offset` to the descriptor `target` at `target_offset`."""
        view = memoryview(self.read(offset, length))
        while view:
            written = os.pwrite(target, view, target_offset)
            view, target_offset = view[written:], target_offset + written


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a file's bytes.

    Attributes:
        file_offset: Where the run starts in the file, in bytes; a multiple of `BLOCK`.
        length: Its length in bytes; a multiple of `BLOCK` unless it ends the file.
        source: Where the bytes are.
        source_offset: Where the run starts in the source, in bytes; a multiple of `BLOCK`.
    """

    file_offset: int
    length: int
    source: ByteSource
    source_offset: int


@dataclass(slots=True, eq=False)
class Inode:
    """A file of any type, without its names. Identity is what makes hard links: compare with `is`.

    Attributes:
        mode: Type and permission bits, as in `st_mode`.
        uid: Owner, 0 to 2**32 - 1.
        gid: Group, 0 to 2**32 - 1.
        mtime: Modification time in nanoseconds since 1970, negative before.
        size: Length in bytes of a regular file, 0 else.
        segments: A regular file's content, ascending and without overlap; gaps are holes.
        target: A symbolic link's target.
        device: (major, minor) of a character or block device.
        xattrs: Extended attributes by full name (`b"security.capability"`), in the kernel's user-space
            form (ACLs as `system.posix_acl_access` with version 2 entries).
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    segments: tuple[Segment, ...] = ()
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def content(self) -> bytes:
        """Return a regular file's whole content, holes as zeros. For small files: it is held in memory."""
        out = bytearray(self.size)
        for segment in self.segments:
            out[segment.file_offset : segment.file_offset + segment.length] = segment.source.read(
                segment.source_offset, segment.length
            )
        return bytes(out)


FileTree = dict[bytes, Inode]
"""Path to inode. Parents may be missing; the root `b""` too. Order carries no meaning."""


def regular_file(content: bytes, mode: int = 0o644, *, uid: int = 0, gid: int = 0, mtime: int = 0) -> Inode:
    """Return a regular file with the given content and permission bits."""
    segments = (Segment(0, len(content), MemorySource(content), 0),) if content else ()
    return Inode(stat.S_IFREG | mode, uid=uid, gid=gid, mtime=mtime, size=len(content), segments=segments)


def directory(mode: int = 0o755, *, uid: int = 0, gid: int = 0, mtime: int = 0) -> Inode:
    """Return a directory with the given permission bits."""
    return Inode(stat.S_IFDIR | mode, uid=uid, gid=gid, mtime=mtime)


def symlink(target: bytes, *, uid: int = 0, gid: int = 0, mtime: int = 0) -> Inode:
    """Return a symbolic link to `target`."""
    return Inode(stat.S_IFLNK | 0o777, uid=uid, gid=gid, mtime=mtime, target=target)
