"""The documents of container images: index, manifest, configuration, and `docker save`'s list.

Sources: the OCI image specification 1.1, image-index.md, manifest.md, config.md, descriptor.md; for
`manifest.json` the Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format". All
of it is the image's own word and may be hostile: what is used is checked for its type here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bouvet.errors import FormatError

MAXIMUM_DOCUMENT = 4 << 20
"""Bytes of an index, a manifest or a configuration; registries refuse larger manifests as well."""

MAXIMUM_LAYERS = 1024
"""Layers of an image. Docker's limit is 127."""

INDEX_TYPES = frozenset((
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
))  # fmt: skip
MANIFEST_TYPES = frozenset((
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
))  # fmt: skip

_LAYER_TYPE = re.compile(
    r"application/vnd\.(oci\.image\.layer(\.nondistributable)?\.v1\.tar(\+(gzip|zstd))?"
    r"|docker\.image\.rootfs(\.foreign)?\.diff\.tar(\.(gzip|zstd))?)"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
# How the layout names an image, and how containerd and Docker do.
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob (descriptor.md).

    Attributes:
        media_type: What it is.
        digest: `sha256:` or `sha512:` and its hexadecimal digits.
        size: Its length in bytes.
        architecture: What it runs on, in the kernel's words (`x86_64`) where those are known; None if
            it is not said.
        system: The operating system, None if it is not said.
        names: What the layout calls it.
    """

    media_type: str
    digest: str
    size: int
    architecture: str | None = None
    system: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image: its configuration, and its layers, lowest first."""

    configuration: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image of `docker save`'s list, by paths in the archive; the layers lowest first."""

    configuration: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an image's configuration says (config.md).

    Attributes:
        architecture: What it runs on, in the kernel's words where those are known.
        system: The operating system.
        diff_ids: The digests of the layers, uncompressed, lowest first.
        environment: Names and values.
        entrypoint: The first words of what a container runs.
        command: Its further words.
        user: Whom it runs as: a name or number, with or without `:group`; empty for root.
        directory: Where it starts; empty for `/`.
    """

    architecture: str
    system: str
    diff_ids: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    directory: str = ""


def parse_index(content: bytes) -> tuple[Descriptor, ...]:
    """Return what an index lists.

    Raises:
        FormatError: It is no index.
    """
    document = _document(content, "index")
    return tuple(_descriptor(entry) for entry in _tables(document, "manifests"))


def parse_manifest(content: bytes) -> Manifest:
    """Return what an image's manifest says.

    Raises:
        FormatError: It is none, or a layer is of a kind that is not known.
    """
    document = _document(content, "manifest")
    layers = tuple(_descriptor(entry) for entry in _tables(document, "layers"))
    _check_count(layers)
    for layer in layers:
        if not _LAYER_TYPE.fullmatch(layer.media_type):
            raise FormatError(f"the image has a layer of the unknown type {layer.media_type!r}")
    return Manifest(_descriptor(_typed(document, "config", dict)), layers)


def parse_saved_images(content: bytes) -> tuple[SavedImage, ...]:
    """Return the images of a docker-archive's `manifest.json`.

    Raises:
        FormatError: It is none.
    """
    entries = _json(content, "manifest.json")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FormatError("the archive's manifest.json is no list of images")
    images = tuple(
        SavedImage(_typed(entry, "Config", str), _texts(entry, "RepoTags"), _texts(entry, "Layers"))
        for entry in entries
    )
    for image in images:
        _check_count(image.layers)
    return images


def parse_configuration(content: bytes) -> Configuration:
    """Return what an image's configuration says.

    Raises:
        FormatError: It is none.
    """
    document = _document(content, "configuration")
    run = document.get("config") or {}
    if not isinstance(run, dict):
        raise FormatError("the image's configuration is damaged: 'config' is not as it must be")
    diff_ids = _texts(_typed(document, "rootfs", dict), "diff_ids")
    architecture = _typed(document, "architecture", str)
    return Configuration(
        architecture=_ARCHITECTURES.get(architecture, architecture),
        system=_typed(document, "os", str),
        diff_ids=tuple(check_digest(digest) for digest in diff_ids),
        environment=tuple(_environment(_texts(run, "Env"))),
        entrypoint=_texts(run, "Entrypoint"),
        command=_texts(run, "Cmd"),
        user=_text(run, "User"),
        directory=_text(run, "WorkingDir"),
    )


def check_digest(digest: str) -> str:
    """Return a digest that is one, so that it can be part of a path.

    Raises:
        FormatError: It is none, or of an algorithm other than SHA-256 and SHA-512.
    """
    if not _DIGEST.fullmatch(digest):
        raise FormatError(f"the image has {digest[:200]!r} for a digest (sha256 or sha512)")
    return digest


def check_content(content: bytes, descriptor: Descriptor) -> bytes:
    """Return a blob's content if it is the one that a descriptor points at.

    Raises:
        FormatError: It is another.
    """
    found = hashlib.new(descriptor.digest.partition(":")[0], content).hexdigest()
    if len(content) != descriptor.size or found != descriptor.digest.partition(":")[2]:
        raise FormatError(f"the image's blob {descriptor.digest} is not what its digest and size say")
    return content


def _descriptor(entry: Mapping[str, Any]) -> Descriptor:
    size = _typed(entry, "size", int)
    if isinstance(size, bool) or size < 0:
        raise FormatError("the image has a blob of a negative size")
    platform = entry.get("platform")
    platform = platform if isinstance(platform, dict) else {}
    architecture, system = platform.get("architecture"), platform.get("os")
    annotations = entry.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    return Descriptor(
        # The media type may be missing in old indexes' entries; what they point at are manifests.
        media_type=_text(entry, "mediaType") or "application/vnd.oci.image.manifest.v1+json",
        digest=check_digest(_typed(entry, "digest", str)),
        size=size,
        architecture=None
        if architecture is None
        else _ARCHITECTURES.get(str(architecture), str(architecture)),
        system=None if system is None else str(system),
        names=tuple(str(annotations[key]) for key in _NAMES if key in annotations),
    )


def _environment(entries: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the variables; what could not be passed on to a program is left out."""
    for entry in entries:
        name, equals, value = entry.partition("=")
        if equals and name and "\0" not in entry:
            yield name, value


def _check_count(layers: tuple[object, ...]) -> None:
    if len(layers) > MAXIMUM_LAYERS:
        raise FormatError(f"the image has {len(layers)} layers, more than {MAXIMUM_LAYERS}")


def _document(content: bytes, what: str) -> dict[str, Any]:
    document = _json(content, what)
    if not isinstance(document, dict):
        raise FormatError(f"the image's {what} is no JSON object")
    return document


def _json(content: bytes, what: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the image's {what} is no JSON: {error}") from error


def _typed(table: Mapping[str, Any], key: str, kind: type[Value]) -> Value:
    value = table.get(key)
    if not isinstance(value, kind):
        raise FormatError(f"the image's description is damaged: {key!r} is not as it must be")
    return value


def _tables(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    values: list[Any] = _typed(table, key, list)
    if not all(isinstance(value, dict) for value in values):
        raise FormatError(f"the image's description is damaged: {key!r} is not as it must be")
    return values


def _texts(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of texts; null, which Go's programs write for an empty one, is one too."""
    values = table.get(key)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FormatError(f"the image's description is damaged: {key!r} is not as it must be")
    return tuple(values)


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    return "" if value is None else _typed(table, key, str)
