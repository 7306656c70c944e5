"""Container images that tests make: layouts in a directory, archives, and layers of every sort."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: Any) -> bytes:
    """Return an entry of a tar, with its content."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def folder(name: str, **attributes: Any) -> bytes:
    return entry(name, kind=tarfile.DIRTYPE, **attributes)


def symlink(name: str, target: str) -> bytes:
    return entry(name, kind=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> bytes:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def tar(*entries: bytes) -> bytes:
    return b"".join(entries) + bytes(1024)


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Blob:
    """A layer's blob: what is stored, what is in it, and its media type."""

    stored: bytes
    content: bytes
    media_type: str = LAYER

    @classmethod
    def gzipped(cls, content: bytes) -> Blob:
        return cls(gzip.compress(content, mtime=0), content, LAYER + "+gzip")


class Layout:
    """An OCI image layout in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        name = digest(content)
        (self.path / "blobs" / name.replace(":", "/")).write_bytes(content)
        return {"mediaType": media_type, "digest": name, "size": len(content), **more}

    def image(
        self,
        layers: Sequence[Blob],
        *,
        architecture: str = "amd64",
        config: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image; return its manifest's descriptor."""
        settings = configuration(layers, architecture=architecture, config=config)
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(json.dumps(settings).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(layer.stored, layer.media_type) for layer in layers],
        }
        return self.blob(json.dumps(manifest).encode(), MANIFEST, **more)

    def index(self, *entries: dict[str, Any]) -> Layout:
        document = {"schemaVersion": 2, "manifests": list(entries)}
        (self.path / "index.json").write_text(json.dumps(document))
        return self

    def archive(self, path: Path) -> Path:
        """Put everything into a tar."""
        with tarfile.open(path, "w") as archive:
            archive.add(self.path, arcname=".")
        return path


def configuration(
    layers: Sequence[Blob], *, architecture: str = "amd64", config: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer.content) for layer in layers]},
    }


def docker_archive(path: Path, layers: Sequence[bytes], tags: Sequence[str], *, twice: bool = False) -> Path:
    """Write what `docker save` wrote before version 25; `twice` links the second layer to the first."""
    settings = json.dumps(configuration([Blob(layer, layer) for layer in layers])).encode()
    name = digest(settings).partition(":")[2] + ".json"
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info, io.BytesIO(content))

        for number, layer in enumerate(layers):
            if twice and number:
                add(f"{number}/layer.tar", b"", "../0/layer.tar")
            else:
                add(f"{number}/layer.tar", layer)
        add(name, settings)
        paths = [f"{number}/layer.tar" for number in range(len(layers))]
        images = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
        add("manifest.json", json.dumps(images).encode())
    return path
