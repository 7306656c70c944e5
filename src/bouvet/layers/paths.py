"""Finding real places in a tree: paths as the guest's programs know them lead over links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bouvet.errors import LayerError

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree

MAXIMUM_LINKS = 40
"""How many links a path may lead over, as in the kernel."""


def real_directory(tree: FileTree, path: bytes) -> bytes:
    """Return where a directory really is, whether it exists or not: `bin` is `usr/bin` in a merged tree.

    Args:
        tree: The tree; links lead nowhere outside of it.
        path: Relative to its root, without `.` and `..`.

    Raises:
        LayerError: A part of it is neither a directory nor a link to one, or links lead in a circle.
    """
    pending = path.split(b"/")[::-1] if path else []
    place: list[bytes] = []
    links = 0
    while pending:
        part = pending.pop()
        if part in {b"", b"."}:
            continue
        if part == b"..":
            del place[-1:]
            continue
        here = b"/".join([*place, part])
        inode = tree.get(here)
        if inode is None or inode.is_directory:
            place.append(part)
        elif inode.is_symlink and links < MAXIMUM_LINKS:
            links += 1
            if inode.target.startswith(b"/"):
                place = []
            pending += inode.target.split(b"/")[::-1]
        else:
            what = (
                "leads over too many links" if inode.is_symlink else f"leads through the file /{_text(here)}"
            )
            raise LayerError(f"the path /{_text(path)} {what}")
    return b"/".join(place)


def real_path(tree: FileTree, path: bytes) -> bytes:
    """Return where a name really is; it may be a link itself, or not exist.

    Args:
        tree: The tree.
        path: Relative to its root, without `.` and `..`.

    Raises:
        LayerError: As for `real_directory`, of the directory that it is in.
    """
    parent, slash, name = path.rpartition(b"/")
    directory = real_directory(tree, parent)
    return directory + b"/" + name if directory and slash else name


def exists(tree: FileTree, path: str) -> bool:
    """Return whether an absolute path of the guest leads to something, over links too."""
    try:
        found = real_path(tree, path.strip("/").encode())
        for _ in range(MAXIMUM_LINKS):
            inode = tree.get(found)
            if inode is None or not inode.is_symlink:
                return inode is not None
            target = (
                inode.target
                if inode.target.startswith(b"/")
                else found.rpartition(b"/")[0] + b"/" + inode.target
            )
            parent, _, name = target.strip(b"/").rpartition(b"/")
            found = b"/".join(part for part in (real_directory(tree, parent), name) if part)
    except LayerError:
        pass
    return False


def _text(path: bytes) -> str:
    return path.decode(errors="replace")
