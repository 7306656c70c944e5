"""Static verification: what an image must be, checked without booting it.

The image is read by our own ext4 reader and counts as hostile: nothing of it is executed, and a damaged
one gives failed rows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from bouvet.errors import FormatError, ImageError
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree
from bouvet.image.expectation import DEVBOX, Expectation
from bouvet.image.guest import Finding, Guest, Requirement, one_line
from bouvet.image.report import Report, Row
from bouvet.image.requirements import agent, base, container, filesystem, leftovers, runtimes, tools

MANIFEST = "/usr/share/bouvet/manifest.json"
"""Where an image tells what it was made from."""

_MANIFEST_LIMIT = 16 << 20


def check_image(path: Path, *, expected: Expectation | None = None) -> Report:
    """Check every requirement that can be seen without booting.

    Args:
        path: The image.
        expected: What it must be; what its own manifest says by default, and the full devbox where that
            is missing or damaged. An image can only hide a feature from who does not give this.

    Raises:
        FormatError: The image holds no ext4 file system that can be read at all.
        ImageError: It cannot be opened or read.
    """
    if not path.is_file() and not path.is_block_device():
        raise ImageError(f"there is no image {path}", hint="make one: bouvet build")
    try:
        with Ext4Reader(path) as reader:
            return Report(str(path), tuple(_check(path, reader, expected)))
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def manifest_expectation(path: Path) -> Expectation:
    """Return what an image's own manifest says it is; the full devbox where that is missing or damaged.

    Raises:
        FormatError: The image holds no ext4 file system.
        ImageError: It cannot be read.
    """
    try:
        with Ext4Reader(path) as reader:
            told, _ = _read_manifest(_walk(reader)[1], None)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    return told or DEVBOX


def requirements(expected: Expectation) -> list[Requirement]:
    """Return the requirements that apply to what is expected, apart from those on metadata and manifest."""
    if expected.container:
        own = container.requirements(expected)
        debian = len(requirements(replace(expected, container=False))) - len(own)
        return [*filesystem.requirements(), *own, container.not_checked(debian)]
    return [
        *filesystem.requirements(),
        *base.requirements(),
        *runtimes.requirements(expected),
        *tools.requirements(expected),
        *(agent.requirements() if expected.agent else ()),
        *leftovers.requirements(),
    ]


def _check(path: Path, reader: Ext4Reader, expected: Expectation | None) -> list[Row]:
    damage, tree = _walk(reader)
    if damage:
        # Whatever else is found in such an image means nothing.
        return [Row(filesystem.AREA, filesystem.METADATA, False, damage)]
    rows = [Row(filesystem.AREA, filesystem.METADATA, True, f"{len(tree)} files")]
    told, finding = _read_manifest(tree, expected)
    rows.append(Row("Manifest", "tells what the image was made from", *finding))
    guest = Guest(path, reader, tree, expected or told or DEVBOX)
    rows += [
        Row(requirement.area, one_line(requirement.text), *requirement.judge(guest))
        for requirement in requirements(guest.expected)
    ]
    return rows


def _walk(reader: Ext4Reader) -> tuple[str, FileTree]:
    """Return all files, and what is wrong with the file system or an empty text."""
    try:
        return "", reader.tree()
    except FormatError as error:
        return one_line(error.message), {}


def _read_manifest(tree: FileTree, expected: Expectation | None) -> tuple[Expectation | None, Finding]:
    """Return what the manifest says the image is, None where it is damaged, and the finding about it."""
    inode = tree.get(MANIFEST.strip("/").encode())
    if inode is None:
        return None, Finding(False, f"{MANIFEST} is missing")
    if not inode.is_regular or inode.size > _MANIFEST_LIMIT:
        return None, Finding(False, f"{MANIFEST} is no file of at most {_MANIFEST_LIMIT} bytes")
    try:
        manifest = json.loads(inode.content())
        told = Expectation.from_spec(manifest["spec"], manifest["architecture"])
        name = str(manifest["name"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError):
        return None, Finding(False, f"{MANIFEST} is damaged")
    if expected is not None and (different := expected.differences(told)):
        return told, Finding(False, f"it differs from what is expected: {', '.join(different)}")
    return told, Finding(True, one_line(f"{name} for {told.architecture}"))
