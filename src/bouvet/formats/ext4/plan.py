"""Planning an ext4 file system: every block gets its place before a byte is read or written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from bouvet.errors import FormatError, SpecError
from bouvet.formats.ext4.blocks import BLOCK_SIZE, Allocator, Run, blocks_for, head_runs
from bouvet.formats.ext4.directory import MAX_LEAVES, block_count, plan_leaves
from bouvet.formats.ext4.extents import Mapping, node_count, normalize, sequential
from bouvet.formats.ext4.geometry import Demand, Geometry, exact_geometry, smallest_geometry
from bouvet.formats.ext4.inodes import FIRST_INODE, MAX_SECONDS
from bouvet.formats.ext4.nodes import Node, number_nodes, show_path
from bouvet.formats.tree import ByteSource, FileTree

MAX_LABEL = 16
MIN_JOURNAL = 1024 * BLOCK_SIZE
"""4 MiB: jbd2 refuses a journal of fewer than 1024 blocks."""
MAX_JOURNAL = 1 << 30
MAX_SIZE = 1 << 42
"""4 TiB: far beyond what is used, and what the tests' largest geometry covers."""
COPY_SIZE = 64 << 20
"""The most that is copied at once, so that progress shows and an interrupt is heard."""

_DEFAULT_UUID = UUID("b0007e70-0000-4000-8000-000000000000")
_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Ext4Options:
    """What a file system is like, apart from its files. Equal trees and options give equal bytes.

    Attributes:
        label: The volume's name, at most 16 bytes in UTF-8.
        uuid: The volume's UUID.
        hash_seed: Seed of the directories' hashes.
        size: The final size in bytes, at most 4 TiB; None for exactly what is needed, plus `free`.
        free: Bytes that stay free when `size` is None; the kernel keeps up to 16 MiB of a file
            system's free space for itself, so a full disk shows that much less.
        journal_size: The journal's bytes: 0 for none, else 4 MiB to 1 GiB in blocks of 4096.
        timestamp: When the file system counts as made, in seconds since 1970, 0 or later.

    Raises:
        SpecError: A value is not as said here.
    """

    label: str = ""
    uuid: UUID = _DEFAULT_UUID
    hash_seed: UUID = _DEFAULT_UUID
    size: int | None = None
    free: int = 0
    journal_size: int = MIN_JOURNAL
    timestamp: int = 0

    def __post_init__(self) -> None:
        if len(self.label.encode()) > MAX_LABEL or "\0" in self.label:
            raise SpecError(f"the label {self.label!r} is longer than {MAX_LABEL} bytes")
        if self.size is not None and not 0 < self.size <= MAX_SIZE:
            raise SpecError(f"the size {self.size} is not between 1 byte and 4 TiB")
        if not 0 <= self.free <= MAX_SIZE:
            raise SpecError(f"the free space {self.free} is not between 0 and 4 TiB")
        journal_fits = MIN_JOURNAL <= self.journal_size <= MAX_JOURNAL
        if self.journal_size and (not journal_fits or self.journal_size % BLOCK_SIZE):
            raise SpecError(
                f"the journal's size {self.journal_size} is not possible",
                hint="0 for none, else 4 MiB to 1 GiB, a multiple of 4096",
            )
        if not 0 <= self.timestamp <= MAX_SECONDS:
            raise SpecError(f"the timestamp {self.timestamp} is not between 1970 and 2446")


class Copy(NamedTuple):
    """Bytes of a source that go to one place of the image.

    Neighbouring files are copied at once, with what lies between the end of the one and the beginning
    of the other in the source: a source pads its files with zeros.
    """

    source: ByteSource
    source_offset: int
    length: int
    image_offset: int


@dataclass(slots=True, eq=False)
class Content:
    """Where a tree's content lies; it depends on the size of the superblock's backups only.

    Attributes:
        copies: What to copy, ascending in the image.
        extents: Each inode's extents, by number.
        extent_nodes: Each inode's extent tree blocks, by number.
        xattr_blocks: Each inode's attribute block, by number.
        resize_block: The block of the resize inode.
        end: The block behind the last.
    """

    copies: list[Copy]
    extents: dict[int, list[Mapping]]
    extent_nodes: dict[int, list[int]]
    xattr_blocks: dict[int, int]
    resize_block: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Ext4Plan:
    """A file system that `write_filesystem` can write.

    Attributes:
        options: What was asked for.
        size: The image's size in bytes.
        geometry: The dimensions.
        nodes: The inodes, in the order of their numbers, the root first.
        copies: What to copy, ascending in the image.
        resize_block: The block of the resize inode.
        data_bytes: Bytes of file content, each file's rounded up to blocks, holes left out.
        used: The runs of blocks in use, ascending.
    """

    options: Ext4Options
    size: int
    geometry: Geometry
    nodes: list[Node] = field(repr=False)
    copies: list[Copy] = field(repr=False)
    resize_block: int
    data_bytes: int
    used: list[Run] = field(repr=False)

    @property
    def free_bytes(self) -> int:
        """Bytes in blocks that nothing uses."""
        return (self.geometry.blocks - sum(run.length for run in self.used)) * BLOCK_SIZE

    @property
    def inode_count(self) -> int:
        """Inodes in use, the ten reserved ones included."""
        return _used_inodes(self.nodes)

    @property
    def free_inodes(self) -> int:
        """Inodes that nothing uses."""
        return self.geometry.groups * self.geometry.inodes_per_group - self.inode_count


def plan_filesystem(tree: FileTree, options: Ext4Options) -> Ext4Plan:
    """Plan a file system that holds a tree. Nothing is read or written.

    Missing directories are made (root's, mode 0755), and `lost+found`. Times beyond what ext4 can
    store (1901 to 2446) become the nearest that it can.

    Raises:
        ImageTooSmall: `options.size` is too small; `needed` is the size that would do.
        FormatError: The tree is impossible, or ext4 cannot hold it; the message names the path.
    """
    nodes = number_nodes(tree, options.timestamp * _BILLION)
    for node in nodes:
        if node.children:
            node.leaves = plan_leaves(sorted(node.children), options.hash_seed.bytes)
            if len(node.leaves) > MAX_LEAVES:
                raise FormatError(f"{show_path(node.path)}: {len(node.children)} names are too many for ext4")
    contents: dict[int, Content] = {}

    def content_for(descriptors: int) -> Content:
        if descriptors not in contents:
            contents[descriptors] = _place_content(nodes, descriptors)
        return contents[descriptors]

    demand = Demand(
        content_end=lambda descriptors: content_for(descriptors).end,
        inodes=_used_inodes(nodes),
        journal_blocks=options.journal_size // BLOCK_SIZE,
    )
    if options.size is None:
        geometry = smallest_geometry(demand, options.free)
        size = geometry.blocks * BLOCK_SIZE
    else:
        geometry = exact_geometry(demand, options.size // BLOCK_SIZE)
        size = options.size
    content = content_for(geometry.descriptors)
    for node in nodes:
        node.extents = content.extents.get(node.number, ())
        node.extent_nodes = content.extent_nodes.get(node.number, ())
        node.xattr_block = content.xattr_blocks.get(node.number, 0)
    return Ext4Plan(
        options=options,
        size=size,
        geometry=geometry,
        nodes=nodes,
        copies=content.copies,
        resize_block=content.resize_block,
        data_bytes=BLOCK_SIZE
        * sum(extent.length for node in nodes if node.inode.is_regular for extent in node.extents),
        used=_used_runs(content, geometry),
    )


def _used_inodes(nodes: list[Node]) -> int:
    """Return how many inodes are in use: the root is one of those that are reserved."""
    return FIRST_INODE - 1 + len(nodes) - 1


def _place_content(nodes: list[Node], descriptors: int) -> Content:
    """Place what the tree's size depends on: data first, then the blocks that describe it."""
    allocator = Allocator(descriptors)
    copies, mappings = _place_data(nodes, allocator)
    content = Content(
        copies=copies,
        extents={number: normalize(found) for number, found in mappings.items()},
        extent_nodes={},
        xattr_blocks={},
        resize_block=allocator.take_blocks(1)[0],
        end=0,
    )
    for node in nodes:
        if node.inode.is_directory:
            content.extents[node.number] = sequential(allocator.take(block_count(node.leaves)))
    for node in nodes:
        if node.is_slow_symlink:
            content.extents[node.number] = sequential(allocator.take(1))
    for number, extents in sorted(content.extents.items()):
        if count := node_count(len(extents)):
            content.extent_nodes[number] = allocator.take_blocks(count)
    for node in nodes:
        if node.xattrs.in_block:
            content.xattr_blocks[node.number] = allocator.take_blocks(1)[0]
    content.end = allocator.position
    return content


def _place_data(nodes: list[Node], allocator: Allocator) -> tuple[list[Copy], dict[int, list[Mapping]]]:
    """Place the files' content in the order of its sources, so that a source is copied in few pieces."""
    sources: dict[int, int] = {}
    pieces = []
    for node in nodes:
        for segment in node.inode.segments if node.inode.is_regular else ():
            order = sources.setdefault(id(segment.source), len(sources))
            pieces.append((order, segment.source_offset, node.number, segment.file_offset, segment))
    # Number and offset in the file are unique, so segments are never compared.
    pieces.sort()
    copies = _Copies()
    mappings: dict[int, list[Mapping]] = {}
    for _, source_offset, number, file_offset, segment in pieces:
        mapped = mappings.setdefault(number, [])
        done = 0
        for run in allocator.take(blocks_for(segment.length)):
            mapped.append(Mapping((file_offset + done) // BLOCK_SIZE, run.start, run.length))
            length = min(segment.length - done, run.length * BLOCK_SIZE)
            copies.add(segment.source, source_offset + done, length, run.start * BLOCK_SIZE)
            done += length
    return copies.finish(), mappings


class _Copies:
    """Joins copies that continue each other, up to `COPY_SIZE`."""

    def __init__(self) -> None:
        self._done: list[Copy] = []
        self._source: ByteSource | None = None
        self._source_offset = self._length = self._image_offset = 0

    def add(self, source: ByteSource, source_offset: int, length: int, image_offset: int) -> None:
        """Add a copy; places only ascend."""
        gap = source_offset - self._source_offset
        continues = (
            source is self._source
            and gap == blocks_for(self._length) * BLOCK_SIZE
            and gap == image_offset - self._image_offset
        )
        if continues:
            self._length = gap + length
        else:
            self._flush()
            self._source, self._source_offset = source, source_offset
            self._length, self._image_offset = length, image_offset

    def finish(self) -> list[Copy]:
        """Return all the copies."""
        self._flush()
        return self._done

    def _flush(self) -> None:
        if self._source is None:
            return
        for start in range(0, self._length, COPY_SIZE):
            length = min(COPY_SIZE, self._length - start)
            copy = Copy(self._source, self._source_offset + start, length, self._image_offset + start)
            self._done.append(copy)


def _used_runs(content: Content, geometry: Geometry) -> list[Run]:
    """Return the blocks in use, ascending and joined."""
    runs = [
        # Up to the content's end there is no gap.
        Run(0, content.end),
        *(Run(number, 1) for number in geometry.block_bitmaps),
        *(Run(number, 1) for number in geometry.inode_bitmaps),
        *geometry.inode_tables,
        *(Run(extent.physical, extent.length) for extent in geometry.journal),
        *(Run(number, 1) for number in geometry.journal_nodes),
        *head_runs(geometry.groups, geometry.descriptors),
    ]
    joined: list[Run] = []
    for run in sorted(runs):
        if joined and run.start <= joined[-1].end:
            last = joined[-1]
            joined[-1] = Run(last.start, max(last.end, run.end) - last.start)
        else:
            joined.append(run)
    return joined
