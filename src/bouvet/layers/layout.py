"""A layer's tree laid out as a directory, for overlayfs to mount: contents, owners, modes, times, links.

What takes names away gets the form that overlayfs knows in a user namespace (mount option `userxattr`,
Linux, Documentation/filesystems/overlayfs.rst): a whiteout stays a character device 0:0, and an opaque
directory has `user.overlay.opaque`. Other attributes of overlayfs are left out, because a layer from
elsewhere could steer the mount with them. Device nodes and `trusted` attributes are left out as well:
an ordinary user cannot make them, and they stay in the layer itself.
"""

# Names are bytes, which pathlib does not take, and there are tens of thousands.
# ruff: noqa: PTH101, PTH102, PTH211

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bouvet.errors import FormatError
from bouvet.layers.merge import OPAQUE, is_whiteout

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree, Inode

USER_OPAQUE = b"user.overlay.opaque"
"""The extended attribute of an opaque directory in an overlay that is mounted with `userxattr`."""

OVERLAY_ATTRIBUTES = (b"user.overlay.", b"trusted.overlay.")
"""How the names of overlayfs's own extended attributes begin."""

_DEFAULT_MODE = 0o755
_NOT_KEPT = {errno.EPERM, errno.EOPNOTSUPP}
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Survey:
    """What a directory tree amounts to; it changes with any change in the tree.

    Attributes:
        entries: How many entries it has, itself included.
        size: The sum of their sizes in bytes.
        changed: The newest time at which one was changed (`st_ctime_ns`).
    """

    entries: int
    size: int
    changed: int


def lay_out(tree: FileTree, directory: bytes) -> None:
    """Lay a tree out in an empty directory; the calling process is root of its user namespace.

    Directories that the tree leaves out are made with mode 0755. The process's umask is 0
    meanwhile, so it must have one thread only.

    Raises:
        FormatError: A path leads through something that is no directory.
        LayerCorrupt: Its content is not what it was when it was committed.
        OSError: The directory cannot be written.
    """
    directories = dict(_directories(tree))
    mask = os.umask(0)
    try:
        _fill(tree, directories, directory)
    finally:
        os.umask(mask)


def _fill(tree: FileTree, directories: dict[bytes, Inode | None], directory: bytes) -> None:
    for path in sorted(directories):
        if path:
            os.mkdir(directory + b"/" + path)
    made: dict[int, bytes] = {}
    for path, inode in tree.items():
        if inode.is_directory:
            continue
        place = directory + b"/" + path
        if first := made.get(id(inode)):
            os.link(first, place, follow_symlinks=False)
        elif _make(inode, place):
            made[id(inode)] = place
    # Last, the deepest first: what is made in a directory changes its time.
    for path in sorted(directories, reverse=True):
        dress_directory(directories[path], directory + b"/" + path)


def dress_directory(inode: Inode | None, place: bytes) -> None:
    """Give a directory the attributes of an inode; none: those of one that no layer describes."""
    if inode is None:
        os.chmod(place, _DEFAULT_MODE)
        os.utime(place, ns=(0, 0))
        return
    os.chown(place, inode.uid, inode.gid)
    os.chmod(place, stat.S_IMODE(inode.mode))
    _set_attributes(inode, place)
    os.utime(place, ns=(inode.mtime, inode.mtime))


def survey(directory: bytes) -> Survey:
    """Return what a directory tree amounts to."""
    own = os.lstat(directory)
    entries, size, changed = 1, own.st_size, own.st_ctime_ns
    for status in _walk(directory):
        entries += 1
        size += status.st_size
        changed = max(changed, status.st_ctime_ns)
    return Survey(entries, size, changed)


def _walk(directory: bytes) -> Iterator[os.stat_result]:
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def _directories(tree: FileTree) -> Iterator[tuple[bytes, Inode | None]]:
    """Yield all directories of a tree, also those that only their content tells of, each once."""
    seen = set()
    for path, inode in tree.items():
        if inode.is_directory and path not in seen:
            seen.add(path)
            yield path, inode
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            if parent in seen:
                break
            seen.add(parent)
            above = tree.get(parent)
            if above is not None and not above.is_directory:
                raise FormatError(
                    f"the layer's path {path!r} leads through {parent!r}, which is no directory"
                )
            yield parent, above


def _make(inode: Inode, place: bytes) -> bool:
    """Make anything but a directory; return whether that could be done."""
    if inode.is_regular:
        _make_file(inode, place)
        return True
    if inode.is_symlink:
        os.symlink(inode.target, place)
    elif is_whiteout(inode) or stat.S_ISFIFO(inode.mode) or stat.S_ISSOCK(inode.mode):
        os.mknod(place, inode.mode)
    else:
        return False
    if inode.uid or inode.gid:
        os.lchown(place, inode.uid, inode.gid)
    if not inode.is_symlink:
        os.chmod(place, stat.S_IMODE(inode.mode))
    os.utime(place, ns=(inode.mtime, inode.mtime), follow_symlinks=False)
    return True


def _make_file(inode: Inode, place: bytes) -> None:
    descriptor = os.open(place, _NEW_FILE, stat.S_IMODE(inode.mode))
    try:
        for run in inode.segments:
            run.source.copy(run.source_offset, run.length, descriptor, run.file_offset)
        if not inode.segments or inode.segments[-1].file_offset + inode.segments[-1].length < inode.size:
            os.ftruncate(descriptor, inode.size)
        if inode.uid or inode.gid:
            os.fchown(descriptor, inode.uid, inode.gid)
        if inode.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
            os.fchmod(descriptor, stat.S_IMODE(inode.mode))
        if inode.xattrs:
            _set_attributes(inode, descriptor)
        os.utime(descriptor, ns=(inode.mtime, inode.mtime))
    finally:
        os.close(descriptor)


def _set_attributes(inode: Inode, place: bytes | int) -> None:
    for name, value in inode.xattrs.items():
        if name == OPAQUE:
            os.setxattr(place, USER_OPAQUE, value)
        elif not name.startswith((*OVERLAY_ATTRIBUTES, b"trusted.")):
            try:
                os.setxattr(place, name, value)
            except OSError as error:
                # A file system may keep none, and only some security modules let others set theirs.
                if error.errno not in _NOT_KEPT:
                    raise
