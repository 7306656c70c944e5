"""Adding files of our own to a layer: root's, with the time of the packages, with their directories."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bouvet.formats.tree import FileTree, directory, regular_file, symlink

if TYPE_CHECKING:
    from bouvet.layers.writer import LayerWriter


def newest_time(tree: FileTree) -> int:
    """Return the newest modification time in a tree, in nanoseconds since 1970; 0 for an empty tree.

    What a build makes gets this time: it depends on the packages only, and nothing looks newer than it.
    """
    return max((inode.mtime for inode in tree.values()), default=0)


class Placing:
    """Adds entries that belong to root, and the directories above them that are not there yet.

    Args:
        layer: Where entries go.
        existing: Paths of the layers below.
        mtime: The entries' time, in nanoseconds since 1970.
    """

    def __init__(self, layer: LayerWriter, existing: Collection[bytes], *, mtime: int) -> None:
        self._layer = layer
        self._existing = existing
        self._mtime = mtime

    def file(self, path: bytes, content: bytes, mode: int = 0o644, *, mtime: int | None = None) -> None:
        """Add a regular file with these permission bits; its own `mtime` if it has one."""
        self._make_parents(path)
        self._layer.add(path, regular_file(content, mode, mtime=self._mtime if mtime is None else mtime))

    def link(self, path: bytes, target: bytes) -> None:
        """Add a symbolic link."""
        self._make_parents(path)
        self._layer.add(path, symlink(target, mtime=self._mtime))

    def directory(self, path: bytes) -> None:
        """Add a directory of mode 0755, unless the layer or those below have it."""
        if path and path not in self._layer.tree and path not in self._existing:
            self._make_parents(path)
            self._layer.add(path, directory(mtime=self._mtime))

    def _make_parents(self, path: bytes) -> None:
        self.directory(path.rpartition(b"/")[0])
