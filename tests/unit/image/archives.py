"""Reading archives back with Python's own tarfile and json."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from bouvet.formats.tree import FileTree
from bouvet.image.oci import OciConfiguration, OciDigests, OciLayer, write_archive

SECOND = 1_000_000_000
CREATED = 1_700_000_000


def configuration(**changes: Any) -> OciConfiguration:
    return dataclasses.replace(OciConfiguration("x86_64", CREATED), **changes)


def layers_of(*trees: FileTree) -> list[OciLayer]:
    return [OciLayer(f"layer {index}", tree, f"step {index}") for index, tree in enumerate(trees)]


def write(path: Path, *trees: FileTree, **changes: Any) -> OciDigests:
    """Write an archive of the trees, with a configuration that has the changes."""
    with path.open("x+b") as file:
        return write_archive(layers_of(*trees), configuration(**changes), file.fileno())


@dataclasses.dataclass
class Archive:
    """An archive, whole in memory; every blob's name was checked against its content."""

    members: list[tarfile.TarInfo]
    files: dict[str, bytes]

    @classmethod
    def read(cls, path: Path) -> Archive:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            files = {member.name: tar.extractfile(member).read() for member in members if member.isfile()}  # type: ignore[union-attr]
        for name, content in files.items():
            if name.startswith("blobs/"):
                assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
        return cls(members, files)

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        """Return what an OCI descriptor stands for, its size checked."""
        content = self.files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(content) == descriptor["size"]
        return content

    @property
    def manifest(self) -> Any:
        (entry,) = self.json("index.json")["manifests"]
        return json.loads(self.blob(entry))

    @property
    def configuration(self) -> Any:
        return json.loads(self.blob(self.manifest["config"]))

    @property
    def layers(self) -> list[dict[bytes, LayerMember]]:
        return [layer_members(self.blob(layer)) for layer in self.manifest["layers"]]


@dataclasses.dataclass
class LayerMember:
    """An entry of a layer, its names and attributes as bytes."""

    info: tarfile.TarInfo
    content: bytes

    @property
    def link(self) -> bytes:
        return self.info.linkname.encode("utf-8", "surrogateescape")

    @property
    def mtime(self) -> int:
        """In nanoseconds; tarfile's own is a float and too coarse."""
        whole, _, fraction = self.info.pax_headers.get("mtime", str(int(self.info.mtime))).partition(".")
        part = int(fraction.ljust(9, "0"))
        return int(whole) * SECOND + (-part if whole.startswith("-") else part)

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        return {
            key.removeprefix("SCHILY.xattr.").encode(): value.encode("utf-8", "surrogateescape")
            for key, value in self.info.pax_headers.items()
            if key.startswith("SCHILY.xattr.")
        }


def layer_members(content: bytes) -> dict[bytes, LayerMember]:
    """Return a layer's entries by name, in the archive's order; no name may come twice."""
    found: dict[bytes, LayerMember] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:", errors="surrogateescape") as tar:
        for info in tar:
            name = info.name.encode("utf-8", "surrogateescape")
            assert name not in found
            file = tar.extractfile(info) if info.isreg() else None
            found[name] = LayerMember(info, file.read() if file else b"")
    return found
