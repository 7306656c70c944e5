"""Reading an ext4 file system, by whomever it was made, without mounting it.

An image may come out of a guest: everything in it counts as hostile. Each block that describes files
is verified by its checksum, belongs to one inode only, and all that is collected has a limit, so that
the work and the memory stay in proportion to the image.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.checksum import xattr_block_checksum
from bouvet.formats.ext4.directory import decode_block
from bouvet.formats.ext4.extents import Mapping, TreeReader
from bouvet.formats.ext4.facts import Ext4Facts, decode_superblock
from bouvet.formats.ext4.image import ImageSource, InodeTable, StoredInode
from bouvet.formats.ext4.inodes import (
    FAST_SYMLINK,
    GOOD_OLD_SIZE,
    MAX_SYMLINK,
    ROOT_INODE,
    decode_device,
    decode_time,
)
from bouvet.formats.ext4.structs import (
    INODE_FLAG_EXTENTS,
    INODE_FLAG_INDEX,
    SUPERBLOCK,
    WORD,
    XATTR_HEADER,
    XATTR_MAGIC,
    XattrHeader,
)
from bouvet.formats.ext4.superblock import SUPERBLOCK_OFFSET
from bouvet.formats.ext4.xattrs import decode_xattrs
from bouvet.formats.tree import FileTree, Inode, Segment

READ_LIMIT = 64 << 20
"""The longest file, in bytes, that `Ext4Reader.read` returns unless told otherwise."""
MAX_ITEMS = 1 << 22
"""The most names, extents and attributes together that are read from an image."""
MAX_PATH_BYTES = 1 << 29
"""The most bytes that all paths of an image may have together."""
MAX_SYMLINK_STEPS = 40
"""The most symbolic links that one path may lead over, as in the kernel."""

_MTIME_EXTRA_END = 12
"""`i_extra_isize` from which on there is an `i_mtime_extra`."""


class Ext4Reader:
    """An ext4 file system in a file, open for reading.

    Paths are as in a `FileTree`: bytes, relative to the root, which is `b""`. Symbolic links are not
    followed but by `resolve`.

    Args:
        path: The image: a file, or a block device.

    Attributes:
        facts: What the superblock says.

    Raises:
        FormatError: The image is no ext4 file system, is damaged, or uses features that are not
            supported. Every method may raise it.
        OSError: The image cannot be opened.
    """

    facts: Ext4Facts

    def __init__(self, path: Path) -> None:
        self._source = ImageSource(path)
        try:
            available = min(SUPERBLOCK.size, max(self._source.size - SUPERBLOCK_OFFSET, 0))
            record = self._source.read(SUPERBLOCK_OFFSET, available)
            self.facts = decode_superblock(record, self._source.size)
        except BaseException:
            self._source.close()
            raise
        self._inodes = InodeTable(self._source, self.facts)
        self._owners: dict[int, int] = {}
        self._directories: dict[int, dict[bytes, int]] = {}
        self._xattr_blocks: dict[int, dict[bytes, bytes]] = {}
        self._names = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the image; content that was not read by then cannot be read any more."""
        self._source.close()

    @property
    def size(self) -> int:
        """The image's size in bytes."""
        return self._source.size

    def listdir(self, path: bytes = b"") -> list[bytes]:
        """Return the sorted names in a directory.

        Raises:
            FileNotFoundError: There is no such path.
            NotADirectoryError: It is no directory.
        """
        record = self._find(path)
        if not record.is_directory:
            raise NotADirectoryError(path)
        return sorted(self._entries(record))

    def stat(self, path: bytes) -> Inode:
        """Return a file's attributes; its content is read from the image when it is asked for.

        Raises:
            FileNotFoundError: There is no such path.
        """
        return self._inode(self._find(path))

    def read(self, path: bytes, *, limit: int = READ_LIMIT) -> bytes:
        """Return a regular file's content.

        Args:
            path: The file.
            limit: The longest content, in bytes, to return.

        Raises:
            FileNotFoundError: There is no such path.
            FormatError: It is no regular file, or longer than `limit`.
        """
        inode = self.stat(path)
        if not inode.is_regular or inode.size > limit:
            raise FormatError(f"{path!r} is no regular file of at most {limit} bytes")
        return inode.content()

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return a file's extended attributes, ACLs in their user-space form.

        Raises:
            FileNotFoundError: There is no such path.
        """
        return self._xattrs(self._find(path))

    def resolve(self, path: bytes) -> bytes:
        """Return the path without symbolic links that a path leads to, as inside of the booted system.

        Raises:
            FileNotFoundError: It leads nowhere, or over more than 40 symbolic links.
        """
        todo = [part for part in reversed(path.split(b"/")) if part]
        done: list[bytes] = []
        steps = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del done[-1:]
                continue
            if part == b".":
                continue
            done.append(part)
            inode = self.stat(b"/".join(done))
            if not inode.is_symlink:
                continue
            steps += 1
            if steps > MAX_SYMLINK_STEPS:
                raise FileNotFoundError(path)
            done = [] if inode.target.startswith(b"/") else done[:-1]
            todo += [part for part in reversed(inode.target.split(b"/")) if part]
        return b"/".join(done)

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield every path with its inode, a directory before what it holds, names sorted.

        Hard links yield the same object.
        """
        seen: set[int] = set()
        files: dict[int, Inode] = {}
        items = path_bytes = 0
        todo = [(b"", ROOT_INODE)]
        while todo:
            path, number = todo.pop()
            inode = files.get(number)
            if inode is None:
                record = self._inodes.read(number)
                inode = self._inode(record)
                items += 1 + len(inode.segments) + len(inode.xattrs)
                if not record.is_directory:
                    files[number] = inode
                elif number in seen:
                    raise FormatError(f"directory inode {number} has two names")
                else:
                    seen.add(number)
                    prefix = path + b"/" if path else b""
                    entries = self._entries(record)
                    # Counted before they are made: long paths times many names is how memory is filled.
                    items += len(entries)
                    path_bytes += len(prefix) * len(entries) + sum(map(len, entries))
                    _check_limits(items, path_bytes)
                    todo += [(prefix + name, entries[name]) for name in sorted(entries, reverse=True)]
                _check_limits(items, path_bytes)
            yield path, inode

    def tree(self) -> FileTree:
        """Return all files; their content is read from the image, as long as it is open."""
        return dict(self.walk())

    def _find(self, path: bytes) -> StoredInode:
        record = self._inodes.read(ROOT_INODE)
        for name in path.split(b"/") if path else ():
            number = self._entries(record).get(name) if record.is_directory else None
            if number is None:
                raise FileNotFoundError(path)
            record = self._inodes.read(number)
        return record

    def _claimed_block(self, number: int, inode: int) -> bytes:
        """Return a block that describes an inode's content; it may belong to no other inode."""
        if not 0 < number < self.facts.blocks or self._owners.setdefault(number, inode) != inode:
            raise FormatError(f"block {number} cannot belong to inode {inode}")
        return self._source.read(number * BLOCK_SIZE, BLOCK_SIZE)

    def _mappings(self, record: StoredInode) -> list[Mapping]:
        if not record.fields.flags & INODE_FLAG_EXTENTS:
            raise FormatError(f"inode {record.number} has a block map, which is not supported")
        reader = TreeReader(self._claimed_block, record.owner, record.number, self.facts.blocks)
        return reader.read(record.fields.block)

    def _entries(self, record: StoredInode) -> dict[bytes, int]:
        """Return a directory's names with their inode numbers."""
        if record.number in self._directories:
            return self._directories[record.number]
        blocks = record.size // BLOCK_SIZE
        indexed = bool(record.fields.flags & INODE_FLAG_INDEX)
        entries: dict[bytes, int] = {}
        logical = count = 0
        for mapping in self._mappings(record):
            if mapping.logical != logical:
                break
            for number in range(mapping.physical, mapping.physical + min(mapping.length, blocks - logical)):
                block = self._claimed_block(number, record.number)
                for name, child in decode_block(block, record.owner, indexed=indexed, first=not logical):
                    entries[name] = child
                    count += 1
                logical += 1
                if self._names + count > MAX_ITEMS:
                    raise FormatError("the image holds more names than can be read")
        if logical != blocks or not blocks or record.size % BLOCK_SIZE or len(entries) != count:
            raise FormatError(f"directory inode {record.number} has holes, no end, or one name twice")
        self._names += count
        self._directories[record.number] = entries
        return entries

    def _inode(self, record: StoredInode) -> Inode:
        fields = record.fields
        extra = fields.mtime_extra if fields.extra_isize >= _MTIME_EXTRA_END else 0
        inode = Inode(
            mode=fields.mode,
            uid=fields.uid_lo | fields.uid_hi << 16,
            gid=fields.gid_lo | fields.gid_hi << 16,
            mtime=decode_time(fields.mtime, extra),
            xattrs=self._xattrs(record),
        )
        if inode.is_regular:
            inode.size = record.size
            inode.segments = self._segments(record)
        elif inode.is_symlink:
            inode.target = self._target(record)
        elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            inode.device = decode_device(fields.block)
        return inode

    def _segments(self, record: StoredInode) -> tuple[Segment, ...]:
        segments = []
        for logical, physical, length in self._mappings(record):
            start = logical * BLOCK_SIZE
            # Blocks may be allocated beyond a file's end.
            size = min(length * BLOCK_SIZE, record.size - start)
            if size > 0:
                segments.append(Segment(start, size, self._source, physical * BLOCK_SIZE))
        return tuple(segments)

    def _target(self, record: StoredInode) -> bytes:
        size = record.size
        target = b""
        if size < FAST_SYMLINK and not record.fields.flags & INODE_FLAG_EXTENTS:
            target = record.fields.block[:size]
        elif size <= MAX_SYMLINK:
            mappings = self._mappings(record)
            if mappings and mappings[0].logical == 0:
                target = self._claimed_block(mappings[0].physical, record.number)[:size]
        if not target or b"\0" in target:
            raise FormatError(f"the symbolic link of inode {record.number} is damaged")
        return target

    def _xattrs(self, record: StoredInode) -> dict[bytes, bytes]:
        where = f"inode {record.number}"
        found: dict[bytes, bytes] = {}
        start = GOOD_OLD_SIZE + record.fields.extra_isize
        if record.raw[start : start + WORD.size] == WORD.pack(XATTR_MAGIC) and record.fields.extra_isize:
            found.update(decode_xattrs(record.raw[start + WORD.size :], 0, where))
        number = record.fields.xattr_block_lo | record.fields.xattr_block_hi << 32
        if number:
            found.update(self._xattr_block(number, where))
        return found

    def _xattr_block(self, number: int, where: str) -> dict[bytes, bytes]:
        """Return the attributes of a block, which several inodes may share."""
        if number in self._xattr_blocks:
            return self._xattr_blocks[number]
        if number >= self.facts.blocks:
            raise FormatError(f"the attribute block of {where} is out of place")
        block = self._source.read(number * BLOCK_SIZE, BLOCK_SIZE)
        header = XattrHeader(*XATTR_HEADER.unpack_from(block))
        if header.magic != XATTR_MAGIC or header.blocks != 1:
            raise FormatError(f"the attribute block of {where} is damaged")
        if self.facts.has_checksums:
            blank = XATTR_HEADER.pack(*header._replace(checksum=0)) + block[XATTR_HEADER.size :]
            if xattr_block_checksum(self.facts.checksum_seed, number, blank) != header.checksum:
                raise FormatError(f"the attribute block of {where} has a wrong checksum")
        return self._xattr_blocks.setdefault(number, decode_xattrs(block, XATTR_HEADER.size, where))


def _check_limits(items: int, path_bytes: int) -> None:
    if items > MAX_ITEMS or path_bytes > MAX_PATH_BYTES:
        raise FormatError("the image holds more files than can be read")
