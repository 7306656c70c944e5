"""A committed layer: a directory that is complete, and whose bytes are known.

    blob                   the files' content (`blob`)
    index.json             the tree (`index`)
    provenance.json        what it was made from
    seal.json              name, sizes, and the SHA-256 of what is JSON: written last

Bytes that changed since are found by the index's digest and the blob's checksums when they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bouvet.errors import LayerCorrupt
from bouvet.formats.tree import FileTree
from bouvet.layers import index
from bouvet.layers.blob import BlobSource
from bouvet.layers.writer import BLOB, INDEX, LayerWriter
from bouvet.plan.provenance import Artifact, Provenance

SEAL = "seal.json"
PROVENANCE = "provenance.json"


@dataclass(frozen=True, slots=True)
class Layer:
    """A committed layer, ready to be read.

    Attributes:
        digest: What it is addressed by.
        name: The name of the step that made it.
        created: When, in seconds since 1970.
        tree: Its entries.
        provenance: What it was made from.
    """

    digest: str
    name: str
    created: float
    tree: FileTree
    provenance: Provenance


def seal_layer(directory: Path, name: str, writer: LayerWriter) -> None:
    """Complete a layer that a writer has filled.

    Args:
        directory: Where the writer writes.
        name: The name of the step that makes it.
        writer: It is committed by this, and to be closed by the caller.
    """
    content = writer.commit()
    provenance = json.dumps(dataclasses.asdict(writer.provenance)).encode()
    (directory / PROVENANCE).write_bytes(provenance)
    seal = {
        "version": 1,
        "name": name,
        "created": time.time(),
        "index": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        "blob": {"size": (directory / BLOB).stat().st_size},
        "provenance": {"sha256": hashlib.sha256(provenance).hexdigest()},
    }
    (directory / SEAL).write_text(json.dumps(seal, indent=1) + "\n")


def read_seal(directory: Path, digest: str) -> dict[str, Any]:
    """Return a committed layer's seal.

    Raises:
        LayerCorrupt: It cannot be read.
    """
    try:
        seal: dict[str, Any] = json.loads((directory / SEAL).read_bytes())
    except (OSError, ValueError) as error:
        raise LayerCorrupt(f"a cached layer is corrupt: {error}", digest=digest) from error
    return seal


def load_layer(directory: Path, digest: str) -> tuple[Layer, BlobSource]:
    """Read a committed layer and open its blob, checking what can be checked without reading that.

    Raises:
        LayerCorrupt: It is not what it was when it was committed.
    """
    try:
        seal = json.loads((directory / SEAL).read_bytes())
        content = (directory / INDEX).read_bytes()
        size = (directory / BLOB).stat().st_size
        if hashlib.sha256(content).hexdigest() != seal["index"]["sha256"]:
            raise LayerCorrupt(f"a cached layer is corrupt: {directory / INDEX}", digest=digest)
        if size != seal["blob"]["size"]:
            raise LayerCorrupt(
                f"a cached layer is corrupt: {directory / BLOB} has {size} bytes, not {seal['blob']['size']}",
                digest=digest,
            )
        document = index.parse(content)
        provenance = _read_provenance(directory / PROVENANCE, seal["provenance"]["sha256"], digest)
        source = BlobSource(directory / BLOB, *index.decode_blob(document), digest)
        tree = index.decode_tree(document, source)
        return Layer(digest, seal["name"], seal["created"], tree, provenance), source
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise LayerCorrupt(f"a cached layer is corrupt: {directory}: {error}", digest=digest) from error


def _read_provenance(path: Path, expected: str, digest: str) -> Provenance:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise LayerCorrupt(f"a cached layer is corrupt: {path}", digest=digest)
    read = json.loads(content)
    return Provenance(
        artifacts=tuple(Artifact(**row) for row in read["artifacts"]),
        sources=tuple(read["sources"]),
        tools=tuple((name, version) for name, version in read["tools"]),
    )
