"""What is large in a tree: by directory and by Debian package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from bouvet.errors import ImageTooLarge
from bouvet.formats.tree import BLOCK, FileTree, Inode

ROWS = 10
"""How many rows a table has."""

_DEEPEST = 4
_DOMINATED = 0.8
_LISTS = b"var/lib/dpkg/info/"
# A tree may be anybody's.
_LARGEST_LIST = 4 << 20


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


def by_directory(tree: FileTree) -> dict[str, int]:
    """Return the bytes in directories, the largest first: those that no single one in them explains."""
    total: dict[bytes, int] = defaultdict(int)
    for path, inode in _files(tree):
        parts = path.split(b"/")[:-1]
        for depth in range(1, min(len(parts), _DEEPEST) + 1):
            total[b"/".join(parts[:depth])] += stored(inode)
    largest: dict[bytes, int] = defaultdict(int)
    for path, size in total.items():
        parent = path.rpartition(b"/")[0]
        largest[parent] = max(largest[parent], size)
    telling = {path: size for path, size in total.items() if largest[path] < _DOMINATED * size}
    ordered = sorted(telling.items(), key=lambda item: (-item[1], item[0]))
    return {"/" + path.decode(errors="replace"): size for path, size in ordered[:ROWS]}


def by_package(tree: FileTree) -> dict[str, int]:
    """Return the bytes of Debian packages' files, the largest first (dpkg-query(1), the files' lists)."""
    sizes = {path: stored(inode) for path, inode in _files(tree)}
    total: dict[str, int] = {}
    for path, inode in tree.items():
        if not (path.startswith(_LISTS) and path.endswith(b".list") and inode.is_regular):
            continue
        if inode.size <= _LARGEST_LIST:
            name = path.removeprefix(_LISTS).removesuffix(b".list").partition(b":")[0]
            total[name.decode(errors="replace")] = sum(
                sizes.get(place, 0) for line in inode.content().splitlines() for place in _places(line)
            )
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[:ROWS])


def stored(inode: Inode) -> int:
    """Return the bytes that a file's content takes in an image, without its holes."""
    return sum(-(-segment.length // BLOCK) * BLOCK for segment in inode.segments)


def _places(line: bytes) -> Iterator[bytes]:
    """Yield where a package's path may be: `/lib` is a link to `/usr/lib` in a merged tree."""
    path = line.lstrip(b"/")
    yield path
    if path.startswith((b"bin/", b"lib/", b"lib64/", b"sbin/")):
        yield b"usr/" + path


def _files(tree: FileTree) -> Iterator[tuple[bytes, Inode]]:
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
