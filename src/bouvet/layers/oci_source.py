"""Finding a container image: in a directory, in an archive, or through skopeo on a registry.

    oci:DIRECTORY[:TAG]         an OCI image layout (the OCI image specification 1.1, image-layout.md)
    oci-archive:FILE[:TAG]      the same in a tar
    docker-archive:FILE[:TAG]   what `docker save` writes
    docker://REFERENCE          a registry's image; skopeo copies it into the cache, as a layout

The names are those of containers-transports(5). Nothing is unpacked: what comes out is where each layer's
blob lies in a file, and what its digests are.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bouvet import process
from bouvet.errors import FormatError, LayerError, SpecError
from bouvet.formats.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAXIMUM_DOCUMENT,
    Configuration,
    Descriptor,
    SavedImage,
    check_content,
    parse_configuration,
    parse_index,
    parse_manifest,
    parse_saved_images,
)

PULL_SECONDS = 3600.0
"""How long skopeo may take to copy an image."""

_MAXIMUM_DEPTH = 4
_MAXIMUM_MEMBERS = 100_000
# What skopeo is told by: the user's own settings for registries and logins.
_USER_SETTINGS = (
    "CONTAINERS_CONF", "CONTAINERS_REGISTRIES_CONF", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE",
    "XDG_CONFIG_HOME",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie: in which file, from which byte on, and how many."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer of an image.

    Attributes:
        place: Where its blob is.
        digest: The blob's digest, None where nothing tells it.
        diff_id: The digest of what is in it.
    """

    place: Place
    digest: str | None
    diff_id: str


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """A container image that was found.

    Attributes:
        digest: The digest of its manifest, or of its configuration in a docker-archive.
        configuration: What it says of itself.
        layers: Its layers, lowest first.
    """

    digest: str
    configuration: Configuration
    layers: tuple[LayerBlob, ...]


class _Files(Protocol):
    """The files of a layout, by name."""

    def find(self, name: str) -> Place:
        """Return where a file's bytes are.

        Raises:
            LayerError: There is no such regular file.
        """
        ...


def find_image(source: str, architecture: str, directory: Path, downloads: Path) -> ContainerImage:
    """Return the image that a spec's `from` names.

    Args:
        source: The transport, `:` and what it says.
        architecture: What the image must run on.
        directory: What a path is relative to.
        downloads: Where `pull` has put copies of registries' images.

    Raises:
        SpecError: There is no such image, none for the architecture, or several.
        FormatError: It is damaged, or not what its digests say.
        LayerError: It cannot be read.
    """
    transport, _, rest = source.partition(":")
    if transport == "docker":
        return _in_layout(_Directory(pulled(source, architecture, downloads)), architecture, None, source)
    path, _, tag = rest.partition(":")
    if transport == "oci":
        return _in_layout(_Directory(directory / path), architecture, tag or None, source)
    archive = _Archive(directory / path)
    if transport == "oci-archive":
        return _in_layout(archive, architecture, tag or None, source)
    return _in_saved(archive, architecture, tag or None, source)


class _Directory:
    """The files of a directory. Links at their end are not followed: a name is the image's word."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SpecError(f"there is no directory {path}, where an image shall be")
        self._path = path.absolute()

    def find(self, name: str) -> Place:
        """Return where a file's bytes are."""
        path = self._path / name
        try:
            state = path.lstat()
        except OSError as error:
            raise LayerError(f"the image has no file {path}: {error.strerror}") from error
        if not stat.S_ISREG(state.st_mode):
            raise LayerError(f"the image's {path} is no regular file")
        return Place(path, 0, state.st_size)


class _Archive:
    """The members of a tar that is not compressed."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            with tarfile.open(path, mode="r:") as archive:
                for count, member in enumerate(archive):
                    if count >= _MAXIMUM_MEMBERS:
                        raise FormatError(f"{path} has more than {_MAXIMUM_MEMBERS} members")
                    self._members[member.name.removeprefix("./")] = member
        except OSError as error:
            raise SpecError(f"cannot read the archive {path}: {error.strerror or error}") from error
        except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise FormatError(
                f"{path} is no archive of an image: {error}",
                hint="one that is compressed as a whole has to be expanded first, for example by gunzip",
            ) from error
        self._size = path.stat().st_size

    def find(self, name: str) -> Place:
        """Return where a file's bytes are; docker links layers that are the same."""
        member = self._members.get(name)
        if member is not None and member.issym():
            linked = os.path.normpath(os.path.join(os.path.dirname(name), member.linkname))  # noqa: PTH118, PTH120
            member = self._members.get(linked)
        elif member is not None and member.islnk():
            member = self._members.get(member.linkname)
        if member is None or not member.isfile() or member.issparse():
            raise LayerError(f"the archive {self._path} has no file {name[:200]!r}")
        if member.size < 0 or member.offset_data + member.size > self._size:
            raise FormatError(f"the archive {self._path} ends in the middle of {name[:200]!r}")
        return Place(self._path, member.offset_data, member.size)


def _in_layout(files: _Files, architecture: str, tag: str | None, source: str) -> ContainerImage:
    """Return the image of an OCI layout."""
    entries = parse_index(_document(files, "index.json"))
    if tag is not None:
        entries = tuple(
            entry for entry in entries if any(name == tag or name.endswith(f":{tag}") for name in entry.names)
        )
    manifest = _choose(files, entries, architecture, source, depth=0)
    if manifest is None:
        raise SpecError(f"{source} has no image for {architecture}" + ("" if tag is None else " of that tag"))
    listed = parse_manifest(_blob(files, manifest))
    configuration = parse_configuration(_blob(files, listed.configuration))
    blobs: list[tuple[Place, str | None]] = []
    for layer in listed.layers:
        place = files.find(_blob_name(layer))
        if place.size != layer.size:
            raise FormatError(f"the image's blob {layer.digest} has {place.size} bytes, not {layer.size}")
        blobs.append((place, layer.digest))
    _check_platform(configuration, architecture, source)
    return ContainerImage(manifest.digest, configuration, _layers(configuration, blobs))


def _choose(
    files: _Files, entries: Sequence[Descriptor], architecture: str, source: str, *, depth: int
) -> Descriptor | None:
    """Return the one manifest for an architecture among an index's entries and those that they lead to."""
    if depth > _MAXIMUM_DEPTH:
        raise FormatError(f"{source} has indexes in indexes, more than {_MAXIMUM_DEPTH} deep")
    found: dict[str, Descriptor] = {}
    for entry in entries:
        chosen: Descriptor | None = None
        if entry.media_type in INDEX_TYPES:
            chosen = _choose(files, parse_index(_blob(files, entry)), architecture, source, depth=depth + 1)
        elif entry.media_type in MANIFEST_TYPES and (
            entry.architecture in {None, architecture} and entry.system in {None, "linux"}
        ):
            chosen = entry
        if chosen is not None:
            found[chosen.digest] = chosen
    if len(found) > 1:
        names = sorted({name for entry in entries for name in entry.names})
        raise SpecError(
            f"{source} has {len(found)} images for {architecture}",
            hint=f"add one of its tags: {', '.join(names)[:500]}" if names else None,
        )
    return next(iter(found.values()), None)


def _in_saved(archive: _Archive, architecture: str, tag: str | None, source: str) -> ContainerImage:
    """Return the image of a docker-archive."""
    images = parse_saved_images(_document(archive, "manifest.json"))
    chosen = [image for image in images if tag is None or _is_tagged(image, tag)]
    if len(chosen) != 1:
        tags = sorted({name for image in images for name in image.tags})
        raise SpecError(
            f"{source} has {len(chosen) or 'no'} such images",
            hint=f"name one of its tags: {', '.join(tags)[:500]}" if tags else None,
        )
    image = chosen[0]
    content = _document(archive, image.configuration)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    # docker names the configuration after its digest; that is all there is to check it by.
    named = image.configuration.rpartition("/")[2].removesuffix(".json")
    if len(named) == 64 and named != digest.partition(":")[2]:
        raise FormatError(f"the archive's {image.configuration} is not what its name says")
    configuration = parse_configuration(content)
    _check_platform(configuration, architecture, source)
    layers = _layers(configuration, [(archive.find(name), None) for name in image.layers])
    return ContainerImage(digest, configuration, layers)


def _is_tagged(image: SavedImage, tag: str) -> bool:
    """Return whether an image has a tag: `latest`, or the whole `name:latest`."""
    return any(name == tag or name.endswith((f":{tag}", f"/{tag}")) for name in image.tags)


def _check_platform(configuration: Configuration, architecture: str, source: str) -> None:
    found = f"{configuration.system} on {configuration.architecture}"
    if found != f"linux on {architecture}":
        raise SpecError(f"{source} is for {found[:200]}, not for linux on {architecture}")


def _layers(configuration: Configuration, blobs: Sequence[tuple[Place, str | None]]) -> tuple[LayerBlob, ...]:
    if len(configuration.diff_ids) != len(blobs):
        raise FormatError(
            f"the image has {len(blobs)} layers and {len(configuration.diff_ids)} digests of them"
        )
    pairs = zip(blobs, configuration.diff_ids, strict=True)
    return tuple(LayerBlob(place, digest, diff_id) for (place, digest), diff_id in pairs)


def _blob(files: _Files, descriptor: Descriptor) -> bytes:
    return check_content(_document(files, _blob_name(descriptor)), descriptor)


def _blob_name(descriptor: Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/")


def _document(files: _Files, name: str) -> bytes:
    """Return a small file's content."""
    place = files.find(name)
    if place.size > MAXIMUM_DOCUMENT:
        raise FormatError(f"the image's {name} has {place.size} bytes, more than {MAXIMUM_DOCUMENT}")
    try:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)
    except OSError as error:
        raise LayerError(f"cannot read the image's {place.path}: {error.strerror}") from error


def pulled(source: str, architecture: str, downloads: Path) -> Path:
    """Return where the copy of a registry's image is, or will be."""
    return downloads / hashlib.sha256(f"{architecture} {source}".encode()).hexdigest()


def pull(source: str, architecture: str, downloads: Path, output: Callable[[str], None]) -> None:
    """Copy a registry's image, as a layout, by skopeo; a copy that is there already is replaced.

    The registry and its login are the user's own: skopeo's, podman's and docker's settings hold.

    Args:
        source: `docker://` and the image's name.
        architecture: What it must run on.
        downloads: A directory that is kept.
        output: Called with each line that skopeo prints.

    Raises:
        CommandFailed: skopeo could not copy it.
        ToolMissing: There is no skopeo.
    """
    layout = pulled(source, architecture, downloads)
    downloads.mkdir(parents=True, exist_ok=True)
    settings = {name: os.environ[name] for name in _USER_SETTINGS if name in os.environ}
    platform = {"x86_64": "amd64", "aarch64": "arm64"}[architecture]
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pull-") as work:
        copied = Path(work) / "layout"
        process.run(
            [
                process.find_tool("skopeo"),
                *("copy", "--override-os", "linux", "--override-arch", platform),
                *(source, f"oci:{copied}:image"),
            ],
            env=process.clean_environment(settings, network=True),
            timeout=PULL_SECONDS,
            on_line=output,
            hint="is the name right, and does 'skopeo inspect' know the registry and your login?",
        )
        if layout.exists():
            layout.rename(Path(work) / "replaced")
        copied.rename(layout)
