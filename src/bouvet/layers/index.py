"""A layer's index: its tree as JSON, kept beside its blob.

Names are bytes, and JSON holds text: each byte is the character of the same number (Latin-1), which
loses nothing. An inode appears once, so that hard links stay links.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bouvet.errors import FormatError
from bouvet.formats.tree import ByteSource, FileTree, Inode, Segment

_VERSION = 1


def encode(tree: FileTree, blob_size: int, checksums: Sequence[int]) -> bytes:
    """Return the index of a tree whose segments are all of the layer's own blob."""
    numbers: dict[int, int] = {}
    inodes: list[Any] = []
    paths: list[Any] = []
    for path, inode in tree.items():
        number = numbers.get(id(inode))
        if number is None:
            number = numbers[id(inode)] = len(inodes)
            inodes.append(_encode_inode(inode))
        paths.append([path.decode("latin-1"), number])
    document = {
        "version": _VERSION,
        "blob": {"size": blob_size, "crc32c": list(checksums)},
        "inodes": inodes,
        "paths": paths,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_blob(document: dict[str, Any]) -> tuple[int, list[int]]:
    """Return the blob's size in bytes and its chunks' checksums."""
    return document["blob"]["size"], document["blob"]["crc32c"]


def parse(content: bytes) -> dict[str, Any]:
    """Parse an index whose digest was checked.

    Raises:
        FormatError: It is of another version.
    """
    document: dict[str, Any] = json.loads(content)
    if document.get("version") != _VERSION:
        raise FormatError(f"a layer's index has version {document.get('version')}, not {_VERSION}")
    return document


def decode_tree(document: dict[str, Any], source: ByteSource) -> FileTree:
    """Return the tree, with its segments over `source`."""
    inodes = [_decode_inode(row, source) for row in document["inodes"]]
    return {path.encode("latin-1"): inodes[number] for path, number in document["paths"]}


def _encode_inode(inode: Inode) -> list[Any]:
    return [
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime,
        inode.size,
        [[run.file_offset, run.length, run.source_offset] for run in inode.segments],
        inode.target.decode("latin-1"),
        list(inode.device),
        {name.decode("latin-1"): value.decode("latin-1") for name, value in sorted(inode.xattrs.items())},
    ]


def _decode_inode(row: list[Any], source: ByteSource) -> Inode:
    mode, uid, gid, mtime, size, runs, target, device, xattrs = row
    return Inode(
        mode,
        uid,
        gid,
        mtime,
        size,
        tuple(Segment(file_offset, length, source, offset) for file_offset, length, offset in runs),
        target.encode("latin-1"),
        (device[0], device[1]),
        {name.encode("latin-1"): value.encode("latin-1") for name, value in xattrs.items()},
    )
