"""From a file tree to numbered inodes: checks what ext4 cannot hold, adds what the tree leaves out."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from bouvet.errors import FormatError
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.directory import FILE_TYPES, MAX_NAME, Leaf
from bouvet.formats.ext4.extents import Mapping
from bouvet.formats.ext4.inodes import (
    FAST_SYMLINK,
    FIRST_INODE,
    MAX_ID,
    MAX_LINKS,
    MAX_SYMLINK,
    ROOT_INODE,
    encode_device,
)
from bouvet.formats.ext4.xattrs import NO_XATTRS, EncodedXattrs, encode_xattrs
from bouvet.formats.tree import FileTree, Inode, directory

LOST_AND_FOUND = b"lost+found"
MAX_FILE_SIZE = (1 << 41) - BLOCK_SIZE
"""2 TiB less a block: without the feature huge_file a file's sectors are counted in 32 bits."""


@dataclass(slots=True, eq=False)
class Node:
    """An inode with its place in the file system.

    Attributes:
        inode: The file's own attributes.
        path: Its first path, for messages.
        parent: The directory that holds that path; the root's is itself.
        number: The inode number.
        links: Number of names; for a directory also `.` and its children's `..`.
        children: A directory's entries; None for what is none.
        leaves: A large directory's hash tree leaves.
        extents: Where the content lies.
        extent_nodes: The blocks of the extent tree outside of the inode.
        xattrs: The extended attributes, encoded.
        xattr_block: The attribute block's number, 0 for none.
    """

    inode: Inode
    path: bytes
    parent: Node | None = field(default=None, repr=False)
    number: int = 0
    links: int = 0
    children: dict[bytes, Node] | None = field(default=None, repr=False)
    leaves: Sequence[Leaf] = field(default=(), repr=False)
    extents: Sequence[Mapping] = ()
    extent_nodes: Sequence[int] = ()
    xattrs: EncodedXattrs = NO_XATTRS
    xattr_block: int = 0

    @property
    def is_slow_symlink(self) -> bool:
        """Whether this is a symbolic link whose target needs a block."""
        return self.inode.is_symlink and len(self.inode.target) >= FAST_SYMLINK


def number_nodes(tree: FileTree, timestamp: int) -> list[Node]:
    """Return the tree's inodes, numbered, in the order of their numbers; the root is the first.

    Missing directories, the root and `lost+found` are added, owned by root.

    Args:
        tree: The files.
        timestamp: Modification time of added directories, in nanoseconds since 1970.

    Raises:
        FormatError: The tree is impossible, or ext4 cannot hold it; the message names the path.
    """
    hierarchy = _Hierarchy(tree, timestamp)
    for path in sorted(tree):
        if path:
            hierarchy.add(path, tree[path])
    if LOST_AND_FOUND not in tree and LOST_AND_FOUND not in hierarchy.directories:
        hierarchy.add(LOST_AND_FOUND, directory(0o700, mtime=timestamp))
    lost_and_found = hierarchy.directories.get(LOST_AND_FOUND)
    if lost_and_found is None:
        raise FormatError("lost+found is not a directory", hint="e2fsck needs that name for itself")
    root = hierarchy.root
    root.number = ROOT_INODE
    others = [node for node in hierarchy.nodes if node is not root and node is not lost_and_found]
    for number, node in enumerate((lost_and_found, *others), FIRST_INODE):
        node.number = number
    return [root, lost_and_found, *others]


class _Hierarchy:
    """The directories and inodes found so far.

    Attributes:
        root: The root directory.
        directories: All directories by path.
        nodes: All inodes, each once.
    """

    def __init__(self, tree: FileTree, timestamp: int) -> None:
        self._tree = tree
        self._timestamp = timestamp
        self._by_identity: dict[int, Node] = {}
        root = tree.get(b"", directory(mtime=timestamp))
        if not root.is_directory:
            raise FormatError("the root is not a directory")
        self.root = _checked_node(root, b"")
        self.root.parent = self.root
        self.root.links = 2
        self.root.children = {}
        self.directories: dict[bytes, Node] = {b"": self.root}
        self._by_identity[id(root)] = self.root
        self.nodes = [self.root]

    def add(self, path: bytes, inode: Inode) -> Node:
        """Add a path, and its missing parents; a known inode gets one more link."""
        parent_path, _, name = path.rpartition(b"/")
        if not name or name in (b".", b"..") or len(name) > MAX_NAME or b"\0" in path or path[:1] == b"/":
            raise FormatError(
                f"{show_path(path)}: not a path that ext4 can hold",
                hint=f"paths are relative, with names of 1 to {MAX_NAME} bytes, none of them . or ..",
            )
        parent = self.directories.get(parent_path) or self._make_directory(parent_path)
        node = self._by_identity.get(id(inode))
        if node is None:
            node = _checked_node(inode, path)
            self._by_identity[id(inode)] = node
            self.nodes.append(node)
            node.parent = parent
            if inode.is_directory:
                self.directories[path] = node
                node.children = {}
                node.links = 1
                parent.links += 1
        elif inode.is_directory:
            raise FormatError(f"{show_path(path)}: a directory cannot have a second name")
        assert parent.children is not None
        parent.children[name] = node
        node.links += 1
        if node.links > MAX_LINKS and not inode.is_directory:
            raise FormatError(f"{show_path(path)}: a file cannot have more than {MAX_LINKS} names")
        return node

    def _make_directory(self, path: bytes) -> Node:
        """Make a missing directory and its missing parents; no recursion, paths can be deep."""
        missing = []
        while path not in self.directories:
            if path in self._tree:
                raise FormatError(f"{show_path(path)}: files lie below it, but it is not a directory")
            missing.append(path)
            path = path.rpartition(b"/")[0]
        node = self.directories[path]
        for absent in reversed(missing):
            node = self.add(absent, directory(mtime=self._timestamp))
        return node


def _checked_node(inode: Inode, path: bytes) -> Node:
    """Return a node for an inode that ext4 can hold."""
    try:
        _check(inode)
        return Node(inode, path, xattrs=encode_xattrs(inode.xattrs))
    except FormatError as error:
        raise FormatError(f"{show_path(path)}: {error.message}", hint=error.hint) from error


def _check(inode: Inode) -> None:
    if not 0 <= inode.mode <= 0xFFFF or stat.S_IFMT(inode.mode) >> 12 not in FILE_TYPES:
        raise FormatError(f"the mode {inode.mode:#o} is of no known file type")
    if not (0 <= inode.uid <= MAX_ID and 0 <= inode.gid <= MAX_ID):
        raise FormatError(f"the owner {inode.uid}:{inode.gid} is out of range")
    if inode.is_regular:
        _check_content(inode)
    elif inode.is_symlink:
        if not 0 < len(inode.target) <= MAX_SYMLINK or b"\0" in inode.target:
            raise FormatError(f"a link's target has 1 to {MAX_SYMLINK} bytes, none of them zero")
    elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        encode_device(*inode.device)


def _check_content(inode: Inode) -> None:
    if not 0 <= inode.size <= MAX_FILE_SIZE:
        raise FormatError(f"a file cannot be {inode.size} bytes long")
    end = 0
    for segment in inode.segments:
        start, end_before = segment.file_offset, end
        end = start + segment.length
        aligned = start % BLOCK_SIZE == 0 and (segment.length % BLOCK_SIZE == 0 or end == inode.size)
        if start < end_before or segment.length <= 0 or end > inode.size or not aligned:
            raise FormatError(f"the content's segment at {start} is out of order or not aligned")


def show_path(path: bytes) -> str:
    """Return a path for messages, whatever bytes it has."""
    return "/" + path.decode(errors="backslashreplace")
