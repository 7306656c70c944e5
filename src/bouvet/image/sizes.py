"""What is large in a tree: by directory and by package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from bouvet.errors import ImageTooLarge
from bouvet.formats.tree import FileTree, Inode
from bouvet.image.packages import find_packages, stored

ROWS = 10
"""How many rows a table has."""

_DEEPEST = 4
_DOMINATED = 0.8


def check_size(tree: FileTree, size: int, limit: int | None) -> None:
    """Refuse an image that is larger than it may be.

    Args:
        tree: Its content.
        size: What it takes, in bytes.
        limit: The most bytes it may have, None for any.

    Raises:
        ImageTooLarge: It is larger; the details are tables of what is large.
    """
    if limit is None or size <= limit:
        return
    tables = (("directory", by_directory(tree)), ("package", by_package(tree)))
    lines = [line for name, sizes in tables if sizes for line in _table(name, sizes)]
    raise ImageTooLarge(
        f"the image has {_mib(size)}, which is {_mib(size - limit)} more than max_size allows",
        needed=size,
        hint="remove packages (apt.remove), leave paths out (debian.exclude), or raise max_size",
        details=tuple(lines),
    )


def by_directory(tree: FileTree, rows: int = ROWS) -> dict[str, int]:
    """Return the bytes in directories, the largest first: those that no single one in them explains.

    Args:
        tree: The files.
        rows: How many directories are told at most.
    """
    total: dict[bytes, int] = defaultdict(int)
    for path, inode in unique_files(tree):
        parts = path.split(b"/")[:-1]
        for depth in range(1, min(len(parts), _DEEPEST) + 1):
            total[b"/".join(parts[:depth])] += stored(inode)
    largest: dict[bytes, int] = defaultdict(int)
    for path, size in total.items():
        parent = path.rpartition(b"/")[0]
        largest[parent] = max(largest[parent], size)
    telling = {path: size for path, size in total.items() if largest[path] < _DOMINATED * size}
    ordered = sorted(telling.items(), key=lambda item: (-item[1], item[0]))
    return {"/" + path.decode(errors="replace"): size for path, size in ordered[:rows]}


def by_package(tree: FileTree) -> dict[str, int]:
    """Return the bytes of packages' files, of any kind of package, the largest first."""
    total: dict[str, int] = defaultdict(int)
    for package in find_packages(tree).packages:
        total[package.name] += package.size
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[:ROWS])


def unique_files(tree: FileTree) -> Iterator[tuple[bytes, Inode]]:
    """Yield each file once, by its first name."""
    seen: set[int] = set()
    for path, inode in tree.items():
        if inode.is_regular and id(inode) not in seen:
            seen.add(id(inode))
            yield path, inode


def _table(name: str, sizes: Mapping[str, int]) -> list[str]:
    return [f"{'size':>14}  {name}", *(f"{_mib(size):>14}  {what}" for what, size in sizes.items())]


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
