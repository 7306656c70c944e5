"""Writing a planned ext4 file system: data, metadata, and the superblock last.

An image whose writing was interrupted has no superblock and is no file system. What is all zeros is
not written: in an empty file it is a hole.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bouvet.errors import ImageError
from bouvet.formats.ext4.blocks import BLOCK_SIZE, BLOCKS_PER_GROUP, backup_groups
from bouvet.formats.ext4.checksum import filesystem_seed, owner_seed
from bouvet.formats.ext4.data import Progress, Span, clear, copy_data, missing_copies
from bouvet.formats.ext4.directory import FILE_TYPES, encode_directory
from bouvet.formats.ext4.extents import encode_tree
from bouvet.formats.ext4.groups import encode_block_bitmaps, encode_descriptors, encode_inode_bitmaps
from bouvet.formats.ext4.inodes import (
    FIRST_INODE,
    INODE_SIZE,
    JOURNAL_INODE,
    MAX_LINKS,
    RESIZE_INODE,
    ROOT_INODE,
    InodePlace,
    Timestamp,
    encode_device,
    encode_inode,
    encode_time,
)
from bouvet.formats.ext4.nodes import Node
from bouvet.formats.ext4.plan import Ext4Plan
from bouvet.formats.ext4.reserved import (
    encode_empty_inode,
    encode_journal_inode,
    encode_journal_superblock,
    encode_resize_blocks,
    encode_resize_inode,
)
from bouvet.formats.ext4.structs import INODE_FLAG_EXTENTS, INODE_FLAG_INDEX
from bouvet.formats.ext4.superblock import SUPERBLOCK_OFFSET, encode_superblock
from bouvet.formats.ext4.xattrs import encode_xattr_block

_JOINED_WRITE = 8 << 20
_BILLION = 1_000_000_000
_Block = tuple[int, bytes]


def write_filesystem(
    plan: Ext4Plan, descriptor: int, *, present: Sequence[Span] = (), progress: Progress | None = None
) -> None:
    """Write a file system into a file, in one pass.

    Args:
        plan: What to write.
        descriptor: A file open for writing; it gets the length `plan.size`.
        present: Where the file has the bytes of the plan's copies already, within each of them,
            ascending; nothing else of what is in the file stays.
        progress: Called now and then with the written fraction, by another thread.

    Raises:
        ImageError: The file cannot be written, for example because the disk is full.
        LayerCorrupt: A source of the content is not what it was.
    """
    stop = threading.Event()
    try:
        clear(descriptor, plan.size, present)
        # Copying hardly needs the interpreter: metadata is encoded meanwhile.
        with ThreadPoolExecutor(1, "ext4 data") as pool:
            copying = pool.submit(copy_data, missing_copies(plan, present), descriptor, progress, stop)
            try:
                metadata = _Metadata(plan)
                copying.result()
            finally:
                stop.set()
        metadata.write(descriptor)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ImageError(
            f"the image could not be written: {os.strerror(error.errno or errno.EIO)}",
            hint=f"it needs up to {-(-plan.size >> 20)} MiB of disk space" if full else None,
        ) from error


class _Metadata:
    """Everything but the files' content, encoded."""

    def __init__(self, plan: Ext4Plan) -> None:
        self._plan = plan
        self._seed = filesystem_seed(plan.options.uuid.bytes)
        self._changed = encode_time(plan.options.timestamp * _BILLION)
        self._extent_nodes: list[_Block] = []
        self._journal_copy = b""
        self._journal_nodes: list[_Block] = []
        self._inodes = b"".join([*self._reserved_inodes(), *self._other_inodes()])
        self._block_bitmaps = encode_block_bitmaps(plan)
        self._inode_bitmaps = encode_inode_bitmaps(plan)
        self._descriptors = encode_descriptors(plan, self._block_bitmaps, self._inode_bitmaps, self._seed)
        self._double_indirect, self._reserved_blocks = encode_resize_blocks(plan)

    def write(self, descriptor: int) -> None:
        """Write all of it, the superblock last."""
        _write_joined(descriptor, self._blocks())
        groups = backup_groups(self._plan.geometry.groups)
        for group in groups:
            backup = encode_superblock(self._plan, group, self._journal_copy)
            block = backup.ljust(BLOCK_SIZE, b"\0") + self._descriptors
            _write_all(descriptor, block, group * BLOCKS_PER_GROUP * BLOCK_SIZE)
        _write_all(descriptor, self._descriptors + self._reserved_blocks, BLOCK_SIZE)
        _write_all(descriptor, encode_superblock(self._plan, 0, self._journal_copy), SUPERBLOCK_OFFSET)

    def _reserved_inodes(self) -> Iterator[bytes]:
        """Yield the inodes 1 to 10, the root's among them."""
        for number in range(1, FIRST_INODE):
            if number == ROOT_INODE:
                yield self._encode(self._plan.nodes[0], self._changed)
            elif number == RESIZE_INODE:
                yield encode_resize_inode(self._plan, self._seed)
            elif number == JOURNAL_INODE and self._plan.geometry.journal:
                inode, self._journal_copy, self._journal_nodes = encode_journal_inode(self._plan, self._seed)
                yield inode
            else:
                yield encode_empty_inode(number, self._seed)

    def _other_inodes(self) -> Iterator[bytes]:
        for node in self._plan.nodes[1:]:
            yield self._encode(node, self._changed)

    def _encode(self, node: Node, changed: Timestamp) -> bytes:
        """Return a node's inode; note its extent nodes."""
        inode = node.inode
        owner = owner_seed(self._seed, node.number)
        flags, size, block = 0, 0, b""
        if inode.is_regular or inode.is_directory or node.is_slow_symlink:
            flags = INODE_FLAG_EXTENTS | (INODE_FLAG_INDEX if node.leaves else 0)
            block, nodes = encode_tree(node.extents, node.extent_nodes, owner)
            self._extent_nodes += nodes
        elif inode.is_symlink:
            block = inode.target
        elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            block = encode_device(*inode.device)
        used = sum(extent.length for extent in node.extents)
        if inode.is_regular:
            size = inode.size
        elif inode.is_directory:
            size = used * BLOCK_SIZE
        elif inode.is_symlink:
            size = len(inode.target)
        place = InodePlace(
            # More subdirectories than can be counted (feature dir_nlink).
            links=node.links if node.links <= MAX_LINKS else 1,
            size=size,
            blocks=used + len(node.extent_nodes) + (1 if node.xattr_block else 0),
            flags=flags,
            block=block,
            xattr_block=node.xattr_block,
        )
        return encode_inode(inode, place, changed, node.xattrs.in_inode, owner)

    def _blocks(self) -> Iterator[_Block]:
        """Yield the metadata behind the data, ascending, in pieces of whole blocks."""
        plan, geometry = self._plan, self._plan.geometry
        yield plan.resize_block, self._double_indirect
        for node in plan.nodes:
            if node.inode.is_directory:
                yield from _spread(self._directory(node), node)
        for node in plan.nodes:
            if node.is_slow_symlink:
                yield from _spread(node.inode.target.ljust(BLOCK_SIZE, b"\0"), node)
        yield from sorted(self._extent_nodes)
        for node in plan.nodes:
            if node.xattr_block:
                block = encode_xattr_block(node.xattrs.in_block, self._seed, node.xattr_block)
                yield node.xattr_block, block
        yield from zip(geometry.block_bitmaps, self._block_bitmaps, strict=True)
        yield from zip(geometry.inode_bitmaps, self._inode_bitmaps, strict=True)
        group_size = geometry.inodes_per_group * INODE_SIZE
        for group, table in enumerate(geometry.inode_tables):
            inodes = self._inodes[group * group_size : (group + 1) * group_size]
            yield table.start, inodes.ljust(-(-len(inodes) // BLOCK_SIZE) * BLOCK_SIZE, b"\0")
        if geometry.journal:
            yield geometry.journal[0].physical, encode_journal_superblock(plan)
        yield from self._journal_nodes

    def _directory(self, node: Node) -> bytes:
        assert node.parent is not None
        assert node.children is not None
        entries = {
            name: (child.number, FILE_TYPES[child.inode.mode >> 12]) for name, child in node.children.items()
        }
        owner = owner_seed(self._seed, node.number)
        return encode_directory(node.number, node.parent.number, entries, node.leaves, owner)


def _spread(content: bytes, node: Node) -> Iterator[_Block]:
    """Yield a node's content at its extents."""
    for logical, physical, length in node.extents:
        yield physical, content[logical * BLOCK_SIZE : (logical + length) * BLOCK_SIZE]


def _write_joined(descriptor: int, blocks: Iterable[_Block]) -> None:
    """Write pieces of whole blocks, neighbouring ones at once."""
    pending: list[bytes] = []
    start = size = 0
    for number, content in blocks:
        if number * BLOCK_SIZE != start + size or size >= _JOINED_WRITE:
            _write_all(descriptor, b"".join(pending), start)
            pending, start, size = [], number * BLOCK_SIZE, 0
        pending.append(content)
        size += len(content)
    _write_all(descriptor, b"".join(pending), start)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
