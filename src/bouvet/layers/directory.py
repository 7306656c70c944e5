"""A directory's files as a layer's entries, with their owners: read by who may see all of them.

Names come in order, so that equal trees give equal layers. Sockets are left out: they mean nothing without
their process. Nothing of another file system that is mounted in the tree is read.
"""

# Names are bytes, which pathlib does not take.
# ruff: noqa: PTH115, PTH123

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.formats.tree import Inode

if TYPE_CHECKING:
    from bouvet.layers.writer import Keep, LayerWriter


def add_directory(layer: LayerWriter, directory: bytes, keep: Keep) -> None:
    """Add a directory's entries to a layer, the directory itself as its root.

    Args:
        layer: A layer in the making.
        directory: The directory; nothing may be changing in it.
        keep: Says of each entry whether it belongs to the layer; it may change the inode.

    Raises:
        LayerError: A file changed while it was read.
        OSError: Something cannot be read.
    """
    linked: dict[int, Inode] = {}
    for path, place, status in _walk(directory):
        if stat.S_ISSOCK(status.st_mode):
            continue
        known = linked.get(status.st_ino) if status.st_nlink > 1 else None
        inode = known or _inode(place, status)
        if not keep(path, inode):
            continue
        if known is None and inode.is_regular:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                with open(descriptor, "rb", buffering=0) as content:
                    layer.add_content(inode, content, status.st_size)
            except EOFError as error:
                raise LayerError(f"{os.fsdecode(place)} changed while it was read") from error
        if status.st_nlink > 1 and not inode.is_directory:
            linked[status.st_ino] = inode
        layer.tree[path] = inode


def _walk(directory: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Yield path, place and status of a directory and of all below it."""
    root = os.lstat(directory)
    pending = [(b"", directory, root)]
    while pending:
        path, place, status = pending.pop()
        yield path, place, status
        if not stat.S_ISDIR(status.st_mode):
            continue
        prefix = path + b"/" if path else b""
        with os.scandir(place) as entries:
            found = sorted(((entry.name, entry.path, entry) for entry in entries), reverse=True)
        for name, below, entry in found:
            state = entry.stat(follow_symlinks=False)
            if state.st_dev == root.st_dev:
                pending.append((prefix + name, below, state))


def _inode(place: bytes, status: os.stat_result) -> Inode:
    device = (0, 0)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return Inode(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        target=os.readlink(place) if stat.S_ISLNK(status.st_mode) else b"",
        device=device,
        xattrs={
            os.fsencode(name): os.getxattr(place, name, follow_symlinks=False)
            for name in sorted(os.listxattr(place, follow_symlinks=False))
        },
    )
