"""What is in an image: its files, packages and layers, and what takes how much.

The image counts as hostile: nothing of it is executed, and what is read of it has limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bouvet.errors import ImageError
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree
from bouvet.image.packages import Package, find_packages, stored
from bouvet.image.sizes import by_directory, unique_files

MANIFEST = b"usr/share/bouvet/manifest.json"
"""Where an image tells what it was made from."""

_MANIFEST_LIMIT = 16 << 20
_MOST_LAYERS = 1000
_LONGEST_NAME = 200
_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sized:
    """Something that takes room: a directory or file by its absolute path, a layer by its name.

    Attributes:
        name: What it is.
        size: The bytes that it takes, None where that is not known.
    """

    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an image.

    Attributes:
        image: The image's path.
        size: The image's size in bytes.
        stored: Bytes that the files' content takes.
        files: How many files of any kind there are.
        label: The file system's label.
        uuid: The file system's UUID.
        created: The newest file's time, which is that of a built image, in seconds since 1970.
        name: What the image's manifest calls it; empty if it has none.
        architecture: What it runs on by its manifest; empty if it has none.
        directories: The directories that explain the size, the largest first.
        largest: The largest files, the largest first.
        layers: The layers by the manifest, the lowest first.
        packages: The packages by kind, name and version.
        unpackaged: Bytes in files that belong to no package.
        unread: Absolute paths of records of packages that were not understood.
    """

    image: str
    size: int
    stored: int
    files: int
    label: str
    uuid: str
    created: int
    name: str
    architecture: str
    directories: tuple[Sized, ...]
    largest: tuple[Sized, ...]
    layers: tuple[Sized, ...]
    packages: tuple[Package, ...]
    unpackaged: int
    unread: tuple[str, ...]


def read_contents(path: Path, *, rows: int, layer_sizes: Mapping[str, int] | None = None) -> Contents:
    """Return what is in an image.

    Args:
        path: The image.
        rows: How many directories and how many files are told at most.
        layer_sizes: What each layer takes, in bytes, where that is known.

    Raises:
        FormatError: It holds no ext4 file system, or a damaged one.
        ImageError: It cannot be opened or read.
    """
    check_is_image(path)
    try:
        with Ext4Reader(path) as reader:
            return _contents(path, reader, reader.tree(), rows, layer_sizes or {})
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def check_is_image(path: Path) -> None:
    """Refuse what can be no image: nothing, a directory, a pipe.

    Raises:
        ImageError: It is none.
    """
    if not path.is_file() and not path.is_block_device():
        raise ImageError(f"there is no image {path}", hint="make one: bouvet build")


def _contents(
    path: Path, reader: Ext4Reader, tree: FileTree, rows: int, layer_sizes: Mapping[str, int]
) -> Contents:
    found = find_packages(tree)
    sizes = {name: stored(inode) for name, inode in unique_files(tree)}
    total = sum(sizes.values())
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:rows]
    manifest = _manifest(tree)
    newest = max((inode.mtime for inode in tree.values()), default=0)
    return Contents(
        image=str(path),
        size=reader.size,
        stored=total,
        files=len(tree),
        label=reader.facts.label,
        uuid=str(reader.facts.uuid),
        created=max(0, newest // _BILLION),
        name=_short(manifest.get("name")),
        architecture=_short(manifest.get("architecture")),
        directories=tuple(Sized(*each) for each in by_directory(tree, rows).items()),
        largest=tuple(
            Sized("/" + name.decode(errors="backslashreplace"), sizes[name])
            for name in largest
            if sizes[name]
        ),
        layers=tuple(Sized(name, layer_sizes.get(name)) for name in _layers(manifest)),
        packages=found.packages,
        unpackaged=total - sum(package.size for package in found.packages),
        unread=found.unread,
    )


def _manifest(tree: FileTree) -> dict[str, Any]:
    """Return what the image tells of itself; nothing where that is missing or damaged."""
    inode = tree.get(MANIFEST)
    if inode is None or not inode.is_regular or inode.size > _MANIFEST_LIMIT:
        return {}
    try:
        manifest = json.loads(inode.content())
    except (ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _layers(manifest: dict[str, Any]) -> list[str]:
    layers = manifest.get("layers")
    return [_short(layer) for layer in layers[:_MOST_LAYERS]] if isinstance(layers, list) else []


def _short(value: object) -> str:
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""
