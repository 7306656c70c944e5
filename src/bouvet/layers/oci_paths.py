"""Paths of a layer that is being applied: where they really lead, inside the image.

Containers' engines let a path of a layer lead through the image's symbolic links, so `lib/a` is `usr/lib/a`
where `lib` is a link (containerd resolves it inside the root; so does this). An absolute link starts at the
image's root, and `..` does not leave it: nothing outside has a name.
"""

from __future__ import annotations

from dataclasses import replace

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode, directory
from bouvet.layers.merge import OPAQUE

MAXIMUM_LINKS = 40
"""Symbolic links that one path may lead through, as in Linux (path_resolution(7))."""

MAXIMUM_PATH = 4096
"""Bytes of a path (PATH_MAX of limits.h)."""

MAXIMUM_NAME = 255
"""Bytes of a name in ext4."""


class LayeredPaths:
    """The paths of a tree and of a layer over it that grows.

    Args:
        lower: The merged tree below.
        own: The layer's own entries.

    Attributes:
        removed: The paths that the layer removes from the tree below.
    """

    def __init__(self, lower: FileTree, own: FileTree) -> None:
        self._lower = lower
        self._own = own
        self._filled: set[bytes] = set()
        self.removed: set[bytes] = set()
        self._resolved: dict[bytes, bytes] = {}
        # What the known resolutions depend on: names they passed, and the links among them.
        self._passed: set[bytes] = set()
        self._links: set[bytes] = set()

    def entry(self, path: bytes) -> Inode | None:
        """Return what is at a real path, or None."""
        own = self._own.get(path)
        if own is not None:
            return own
        return None if self._hidden(path) else self._lower.get(path)

    def directory(self, path: bytes) -> bytes:
        """Return the real path of a directory that entries are to be put into; it may not be there yet.

        Raises:
            FormatError: The path leads through a file, through too many links, or is too long.
        """
        known = self._resolved.get(path)
        if known is None:
            known = self._resolved[path] = self._resolve(path)
        return known

    def filled(self, path: bytes) -> bool:
        """Return whether the layer has had entries below a path."""
        return path in self._filled

    def note(self, path: bytes) -> None:
        """Take note of an entry that was put into the layer."""
        if path in self._links or (path in self._passed and not self._own[path].is_directory):
            self._forget()
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._filled:
                break
            self._filled.add(path)

    def remove(self, path: bytes) -> None:
        """Take note that the layer removes a path from the tree below."""
        self.removed.add(path)
        self._forget()

    def hide(self, path: bytes) -> None:
        """Make a directory opaque; one that the layer does not have gets the attributes of that below."""
        if path not in self._own:
            below = self.entry(path)
            self._own[path] = directory() if below is None else replace(below, xattrs=dict(below.xattrs))
        self._own[path].xattrs[OPAQUE] = b"y"
        self._forget()

    def _forget(self) -> None:
        self._resolved.clear()
        self._passed.clear()
        self._links.clear()

    def _resolve(self, path: bytes) -> bytes:
        pending = path.split(b"/")[::-1] if path else []
        real: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                del real[-1:]
                continue
            here = b"/".join([*real, name])
            if len(name) > MAXIMUM_NAME or len(here) > MAXIMUM_PATH:
                raise FormatError(f"the layer has a path that is too long: {here[:200]!r}...")
            self._passed.add(here)
            inode = self.entry(here)
            if inode is None or inode.is_directory:
                real.append(name)
            elif inode.is_symlink:
                links += 1
                self._links.add(here)
                if links > MAXIMUM_LINKS:
                    raise FormatError(f"the layer's path {path!r} leads through too many symbolic links")
                if inode.target.startswith(b"/"):
                    real = []
                pending += inode.target.split(b"/")[::-1]
            else:
                raise FormatError(f"the layer's path {path!r} leads through {here!r}, which is no directory")
        return b"/".join(real)

    def _hidden(self, path: bytes) -> bool:
        """Return whether the layer hides what the tree below has at a path."""
        if path in self.removed:
            return True
        while path:
            path = path.rpartition(b"/")[0]
            own = self._own.get(path)
            if path in self.removed or (
                own is not None and (not own.is_directory or own.xattrs.get(OPAQUE) == b"y")
            ):
                return True
        return False
