"""What a command changed, as a layer: overlayfs's upper directory in the form that `merge` knows.

overlayfs copies a file up from the layers below before it is changed, so the upper directory has whole
files, and directories above them. What equals the layers below apart from its time is left out, and so is
what differs between two runs without meaning anything (`debian_tree.is_noise`). Times after the newest
one below become that one: the command saw it as SOURCE_DATE_EPOCH.

A file with several names that is changed through one of them changes under that name only: that is
what overlayfs does.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from bouvet.layers.debian_tree import is_noise
from bouvet.layers.layout import OVERLAY_ATTRIBUTES, USER_OPAQUE
from bouvet.layers.merge import OPAQUE, filled_directories, is_whiteout

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree, Inode
    from bouvet.layers.writer import LayerWriter

_PIECE = 1 << 20
"""Bytes that are compared at once."""


class Difference:
    """Takes the entries of one upper directory.

    Args:
        lower: The merged tree of the layers below.
        newest: The newest time in it, in nanoseconds since 1970.
    """

    def __init__(self, lower: FileTree, newest: int) -> None:
        self._lower = lower
        self._newest = newest
        self._filled = filled_directories(lower)

    def keep(self, path: bytes, inode: Inode) -> bool:
        """Take an entry; return whether it belongs to the layer."""
        # The root belongs to the image's format where no layer describes it.
        if is_noise(path, inode) or (not path and path not in self._lower):
            return False
        if is_whiteout(inode):
            # Who made it and when says nothing.
            inode.mode, inode.uid, inode.gid, inode.mtime = stat.S_IFCHR, 0, 0, 0
            return path in self._lower or path in self._filled
        opaque = inode.xattrs.get(USER_OPAQUE) == b"y"
        inode.xattrs = {
            name: value for name, value in inode.xattrs.items() if not name.startswith(OVERLAY_ATTRIBUTES)
        }
        # overlayfs marks every new directory; it means something only over others.
        if opaque and path in self._filled:
            inode.xattrs[OPAQUE] = b"y"
        return True

    def settle(self, layer: LayerWriter) -> None:
        """Leave out of the layer what did not change, and clamp times; call it when all were taken."""
        names: dict[int, list[bytes]] = {}
        for path, inode in layer.tree.items():
            names.setdefault(id(inode), []).append(path)
        for paths in names.values():
            inode = layer.tree[paths[0]]
            below = {id(self._lower.get(path)) for path in paths}
            lower = self._lower.get(paths[0])
            if lower is not None and len(below) == 1 and self._unchanged(lower, inode):
                for path in paths:
                    del layer.tree[path]
            else:
                inode.mtime = min(inode.mtime, self._newest)

    def _unchanged(self, lower: Inode, inode: Inode) -> bool:
        """Return whether nothing but the time is another, and that only because the command ran now."""
        return (
            _facts(lower) == _facts(inode)
            and (inode.mtime == lower.mtime or inode.mtime > self._newest)
            and _same_content(lower, inode)
        )


def _facts(inode: Inode) -> tuple[object, ...]:
    runs = [(run.file_offset, run.length) for run in inode.segments]
    return inode.mode, inode.uid, inode.gid, inode.size, inode.target, inode.device, inode.xattrs, runs


def _same_content(one: Inode, other: Inode) -> bool:
    """Return whether two regular files with the same runs of data have the same data."""
    for ours, theirs in zip(one.segments, other.segments, strict=True):
        for start in range(0, ours.length, _PIECE):
            length = min(_PIECE, ours.length - start)
            if ours.source.read(ours.source_offset + start, length) != theirs.source.read(
                theirs.source_offset + start, length
            ):
                return False
    return True
