"""One tar that is at once an OCI image layout and what `docker save` writes.

Sources: the OCI image specification 1.1, image-layout.md, manifest.md and config.md; for `manifest.json`
the Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format". Both describe the
same blobs, as Docker's own archives do since version 25:

    oci-layout                the layout's version
    blobs/sha256/<digest>     the layers, the configuration, the manifest
    index.json                OCI: the manifest's digest, the image's name
    manifest.json             Docker: the same, by path

Layers are not compressed. Whoever pushes the image compresses on the way, an archive at rest can be
compressed as a whole, and a compressed layer would differ from one build of zlib to the next: two machines
would give one image two digests. It also keeps the layer's digest and its "diff id" one and the same.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bouvet.errors import ImageError, SpecError
from bouvet.formats.tree import FileTree, directory
from bouvet.image.tar import PIECE, write_layer
from bouvet.layers.merge import is_whiteout, merge

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIGURATION_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

Progress = Callable[[float], None]
"""Is told how much of the archive is written, from 0 to 1."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_BILLION = 1_000_000_000
_ZEROS = bytes(PIECE)

# The grammar of Docker's image references (distribution/reference, "Grammar").
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?"
_NAME = re.compile(rf"(?P<host>{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class OciLayer:
    """One layer of the image.

    Attributes:
        name: What it is called in the image's history.
        tree: Its files, with overlayfs' whiteouts for what it removes from the layers below.
        created_by: What made it, for the image's history.
    """

    name: str
    tree: FileTree
    created_by: str


@dataclass(frozen=True, slots=True)
class OciConfiguration:
    """What the image is called, and how a container of it starts.

    Attributes:
        architecture: What it runs on.
        created: The image's time in whole seconds since 1970, 0 or later. Never the clock's: it is part
            of the digests.
        name: A Docker repository name: lower case, with or without a registry's host before it.
        tag: A Docker tag: up to 128 letters, digits, `_`, `.` and `-`.
        environment: Names and values.
        entrypoint: The first words of what a container runs.
        command: The further words, or all of them, if it is not told others; empty for none.
        working_directory: Where it starts, an absolute path; empty for `/`.
        user: Whom it runs as: a name or number, with or without `:group`; empty for root.
        labels: Names and values that tools show.

    Raises:
        SpecError: The name or the tag is none.
    """

    architecture: Literal["x86_64", "aarch64"]
    created: int
    name: str = "bouvet-devbox"
    tag: str = "latest"
    environment: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_directory: str = ""
    user: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _MAX_NAME:
            raise SpecError(
                f"{self.name!r} is no name of a container image",
                hint="use lower-case letters and digits, with single . _ or - between them",
            )
        if not _TAG.fullmatch(self.tag):
            raise SpecError(
                f"{self.tag!r} is no tag of a container image",
                hint="use up to 128 letters, digits, _ . and -, none of . and - first",
            )

    @property
    def full_name(self) -> str:
        """Name and tag with a registry's host before them: `localhost` where the name has none.

        Container engines keep images under full names; podman chooses the same for images made locally.
        """
        match = _NAME.fullmatch(self.name)
        host = "" if match is not None and match["host"] else "localhost/"
        return f"{host}{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class OciDigests:
    """What was written; digests read `sha256:` and 64 hexadecimal digits.

    Attributes:
        manifest: The digest that names the image in a registry.
        configuration: The digest that Docker shows as the image's id.
        layers: The layers' digests, lowest first; "diff ids" too.
        size: The archive's size in bytes.
    """

    manifest: str
    configuration: str
    layers: tuple[str, ...]
    size: int


def write_archive(
    layers: Sequence[OciLayer],
    configuration: OciConfiguration,
    descriptor: int,
    *,
    progress: Progress | None = None,
) -> OciDigests:
    """Write an image into an empty file, in one pass. Equal arguments give equal bytes.

    A directory that no layer names but a path leads through belongs to root, with mode 0755.

    Args:
        layers: At least one, lowest first.
        configuration: The image's name and settings.
        descriptor: A seekable file open for writing, of length 0.
        progress: Called now and then with the written fraction.

    Raises:
        FormatError: A layer is impossible, or tar cannot hold it.
        ImageError: The file cannot be written, for example because the disk is full.
        LayerCorrupt: A source of the content is not what it was.
    """
    total = sum(_content_size(layer.tree) for layer in layers)
    try:
        archive = _Archive(descriptor, configuration.created, total, progress)
        archive.add_file("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        archive.add_directory("blobs")
        archive.add_directory("blobs/sha256")
        written = _add_layers(layers, configuration, archive)
        digests = [layer["digest"] for layer in written]
        settings = archive.add_blob(CONFIGURATION_TYPE, _configuration(layers, configuration, digests))
        manifest = archive.add_blob(MANIFEST_TYPE, _manifest(configuration, settings, written))
        archive.add_file("index.json", _index(configuration, manifest))
        archive.add_file("manifest.json", _docker_manifest(configuration, settings, written))
        size = archive.finish()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ImageError(
            f"the archive could not be written: {os.strerror(error.errno or errno.EIO)}",
            hint=f"it needs more than {-(-total >> 20)} MiB of disk space" if full else None,
        ) from error
    return OciDigests(manifest["digest"], settings["digest"], tuple(digests), size)


def _content_size(tree: FileTree) -> int:
    """Return how many bytes the files have, each counted once however many names it has."""
    return sum({id(inode): inode.size for inode in tree.values()}.values())


def _add_layers(
    layers: Sequence[OciLayer], configuration: OciConfiguration, archive: _Archive
) -> list[dict[str, Any]]:
    """Write the layers and return their OCI descriptors."""
    written = []
    lower: FileTree = {}
    for layer in layers:
        merged = merge([lower, layer.tree])
        missing = _missing_directories(layer.tree, merged, configuration.created)
        written.append(archive.add_layer(layer.tree | missing, lower))
        lower = merged | missing
    return written


def _missing_directories(tree: FileTree, merged: FileTree, created: int) -> FileTree:
    """Return the parents, the root among them, that neither the layer nor those below it have."""
    missing: FileTree = {}
    if b"" not in merged:
        missing[b""] = directory(mtime=created * _BILLION)
    for path, inode in tree.items():
        parent = b"" if is_whiteout(inode) else path
        while parent:
            parent = parent.rpartition(b"/")[0]
            if parent in merged or parent in missing:
                break
            missing[parent] = directory(mtime=created * _BILLION)
    return missing


class _Archive:
    """Appends members to the archive. Content passes through a buffer of about a mebibyte."""

    def __init__(self, descriptor: int, created: int, total: int, progress: Progress | None) -> None:
        self._descriptor = descriptor
        self._created = created
        self._total = total
        self._progress = progress
        self._buffer = bytearray()
        self._flushed = 0
        self._digest = hashlib.sha256()
        self._blobs: set[str] = set()

    def write(self, content: bytes) -> None:
        """Append bytes."""
        self._buffer += content
        if len(self._buffer) >= PIECE:
            self._flush()

    def write_zeros(self, length: int) -> None:
        """Append zeros, which take no space on the disk where there are many."""
        if length < PIECE:
            self.write(_ZEROS[:length])
            return
        self._flush()
        self._flushed += length
        for start in range(0, length, PIECE):
            self._digest.update(memoryview(_ZEROS)[: length - start])

    def add_directory(self, name: str) -> None:
        """Append a directory."""
        self.write(self._header(name, 0, tarfile.DIRTYPE))

    def add_file(self, name: str, content: bytes) -> None:
        """Append a file."""
        self.write(self._header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE))

    def add_blob(self, media_type: str, content: bytes) -> dict[str, Any]:
        """Append a blob and return its OCI descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.add_file(f"blobs/sha256/{digest}", content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add_layer(self, tree: FileTree, lower: FileTree) -> dict[str, Any]:
        """Append a layer, and its name once that is known; return its OCI descriptor."""
        self._flush()
        header_at = self._flushed
        self.write(bytes(tarfile.BLOCKSIZE))
        self._flush()
        self._digest = hashlib.sha256()
        write_layer(tree, lower, self)
        self._flush()
        size = self._flushed - header_at - tarfile.BLOCKSIZE
        digest = self._digest.hexdigest()
        if digest in self._blobs:
            # An equal layer is there already. The cut also takes back what a hole could show later.
            os.ftruncate(self._descriptor, header_at)
            self._flushed = header_at
        else:
            self._blobs.add(digest)
            _write_all(self._descriptor, self._header(f"blobs/sha256/{digest}", size), header_at)
        return {"mediaType": LAYER_TYPE, "digest": f"sha256:{digest}", "size": size}

    def finish(self) -> int:
        """End the archive; return its size in bytes."""
        self.write(bytes(2 * tarfile.BLOCKSIZE))
        self._flush()
        if self._progress is not None:
            self._progress(1.0)
        return self._flushed

    def _header(self, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
        """Return a member's header: one block, whatever the size (GNU's form beyond 8 GiB)."""
        member = tarfile.TarInfo(name)
        member.type = kind
        member.size = size
        member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        member.mtime = self._created
        header = member.tobuf(tarfile.GNU_FORMAT)
        assert len(header) == tarfile.BLOCKSIZE
        return header

    def _flush(self) -> None:
        self._digest.update(self._buffer)
        _write_all(self._descriptor, self._buffer, self._flushed)
        self._flushed += len(self._buffer)
        self._buffer = bytearray()
        if self._progress is not None:
            self._progress(min(1.0, self._flushed / max(1, self._total)))


def _write_all(descriptor: int, content: bytes | bytearray, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _configuration(
    layers: Sequence[OciLayer], configuration: OciConfiguration, digests: Sequence[str]
) -> bytes:
    """Return the image's configuration (config.md)."""
    created = _time(configuration.created)
    run: dict[str, Any] = {
        "User": configuration.user,
        "Env": [f"{name}={value}" for name, value in configuration.environment],
        "Entrypoint": list(configuration.entrypoint),
        "Cmd": list(configuration.command),
        "WorkingDir": configuration.working_directory,
        "Labels": dict(configuration.labels),
    }
    return _json(
        {
            "created": created,
            "architecture": _ARCHITECTURES[configuration.architecture],
            "os": "linux",
            "config": {name: value for name, value in run.items() if value},
            "rootfs": {"type": "layers", "diff_ids": list(digests)},
            "history": [
                {"created": created, "created_by": layer.created_by, "comment": layer.name}
                for layer in layers
            ],
        }
    )


def _manifest(
    configuration: OciConfiguration, settings: dict[str, Any], layers: list[dict[str, Any]]
) -> bytes:
    """Return the image's manifest (manifest.md)."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": settings,
            "layers": layers,
            "annotations": {
                "org.opencontainers.image.created": _time(configuration.created),
                "org.opencontainers.image.title": configuration.name,
            },
        }
    )


def _index(configuration: OciConfiguration, manifest: dict[str, Any]) -> bytes:
    """Return the layout's index (image-layout.md, "index.json file")."""
    platform = {"architecture": _ARCHITECTURES[configuration.architecture], "os": "linux"}
    names = {
        # Docker with containerd's image store, and podman, take the image's name from the first one.
        "io.containerd.image.name": configuration.full_name,
        "org.opencontainers.image.ref.name": configuration.tag,
    }
    entry = manifest | {"platform": platform, "annotations": names}
    return _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]})


def _docker_manifest(
    configuration: OciConfiguration, settings: dict[str, Any], layers: list[dict[str, Any]]
) -> bytes:
    """Return Docker's list of the archive's images."""
    return _json(
        [
            {
                "Config": _blob_path(settings),
                "RepoTags": [f"{configuration.name}:{configuration.tag}"],
                "Layers": [_blob_path(layer) for layer in layers],
            }
        ]
    )


def _blob_path(descriptor: dict[str, Any]) -> str:
    digest: str = descriptor["digest"]
    return "blobs/" + digest.replace(":", "/")


def _time(seconds: int) -> str:
    """Return a time in the form of RFC 3339, section 5.6."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
