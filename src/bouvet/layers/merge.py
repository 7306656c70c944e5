"""Layers laid over each other: later ones win, and may take names away.

A layer removes what lies below it as overlayfs does (Linux, Documentation/filesystems/overlayfs.rst,
"whiteouts and opaque directories"): a character device 0:0 removes the name it bears, and a directory
with `trusted.overlay.opaque` set to `y` hides everything that the layers below have in it.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode

OPAQUE = b"trusted.overlay.opaque"
"""The extended attribute of a directory that hides what lies below it."""


def merge(layers: Sequence[FileTree]) -> FileTree:
    """Return the tree that the layers, lowest first, make together. The layers are left as they are.

    Raises:
        FormatError: A path leads through something that is no directory.
    """
    if not layers:
        return {}
    merged = {path: inode for path, inode in layers[0].items() if not is_whiteout(inode)}
    for layer in layers[1:]:
        _lay_over(merged, layer)
    for layer in layers:
        for path, inode in layer.items():
            if OPAQUE in inode.xattrs and merged.get(path) is inode:
                plain = {name: value for name, value in inode.xattrs.items() if name != OPAQUE}
                merged[path] = Inode(inode.mode, inode.uid, inode.gid, inode.mtime, xattrs=plain)
    return merged


def whiteout() -> Inode:
    """Return an entry that stands for the removal of its name."""
    return Inode(stat.S_IFCHR)


def is_whiteout(inode: Inode) -> bool:
    """Return whether an entry stands for the removal of its name."""
    return stat.S_ISCHR(inode.mode) and inode.device == (0, 0)


def _lay_over(merged: FileTree, layer: FileTree) -> None:
    """Lay one layer over the tree, in place."""
    # What goes is found first: a removal concerns the layers below only, whatever the entries' order.
    filled = filled_directories(merged)
    emptied = tuple(
        path + b"/"
        for path, inode in layer.items()
        if path in filled and (not inode.is_directory or inode.xattrs.get(OPAQUE) == b"y")
    )
    if emptied:
        prefixes = tuple(b"" if prefix == b"/" else prefix for prefix in emptied)
        for path in [path for path in merged if path and path.startswith(prefixes)]:
            del merged[path]
    checked: set[bytes] = set()
    for path in layer:
        _check_parents(path, layer, merged, checked)
    for path, inode in layer.items():
        if is_whiteout(inode):
            merged.pop(path, None)
        else:
            merged[path] = inode


def filled_directories(tree: FileTree) -> set[bytes]:
    """Return the paths that something lies below, whether they are entries themselves or not."""
    filled: set[bytes] = set()
    for path in tree:
        while path:
            path = path.rpartition(b"/")[0]  # noqa: PLW2901  (walks up)
            if path in filled:
                break
            filled.add(path)
    return filled


def _check_parents(path: bytes, layer: FileTree, merged: FileTree, checked: set[bytes]) -> None:
    """Refuse a path that would lead through a link or a file of the tree."""
    parent = path
    while b"/" in parent:
        parent = parent.rpartition(b"/")[0]
        if parent in checked:
            return
        inode = layer.get(parent) or merged.get(parent)
        if inode is not None and not inode.is_directory:
            raise FormatError(
                f"the layer's path {path!r} leads through {parent!r}, which is no directory",
                hint="a layer must name files by their real place, for example usr/lib and not lib",
            )
        checked.add(parent)
