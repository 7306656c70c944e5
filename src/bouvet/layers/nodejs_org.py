"""The Node.js layer from nodejs.org: one archive with Node.js and npm, at the same places as `node`'s.

    SERVER/index.json                    the releases, newest first: `version`, and what there is in `files`
    SERVER/VERSION/SHASUMS256.txt        digests of the release's files, as sha256sum(1) writes them
    SERVER/VERSION/node-VERSION-linux-{x64,arm64}.tar.xz

Source: the index of nodejs-dist-indexer, and the section "Verifying binaries" of Node.js's README.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bouvet.download import fetch
from bouvet.errors import LayerError
from bouvet.layers.kept_downloads import Published, obtain
from bouvet.layers.node import node_path, npm_path, place
from bouvet.layers.pins import demanded, pinned
from bouvet.layers.tarballs import unpack
from bouvet.plan.provenance import SHA256, Artifact, Provenance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bouvet.layers.maker import Workshop
    from bouvet.layers.tarballs import PackagedFile
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import NodeArchiveInputs

OFFICIAL_SERVER = "https://nodejs.org/dist"
"""Where Node.js's project publishes its releases."""

PLATFORMS = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}
"""nodejs.org's name of each architecture."""

LARGEST_ARCHIVE = 1 << 30
"""Bytes that a release's archive may have."""

_ARTIFACT = "node"
_NPM = b"lib/node_modules/npm/"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S+)")


class _Release(BaseModel):
    version: Annotated[str, Field(pattern=r"^v\d{1,6}\.\d{1,6}\.\d{1,6}$")]
    files: list[str]


_RELEASES = TypeAdapter(list[_Release])


def make(inputs: NodeArchiveInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Download the newest matching release and lay it out.

    Raises:
        DownloadError: Something cannot be had, or is not what the server announced.
        LayerError: The server has no such release, or what it has makes no sense.
        LockError: What a lock names cannot be had.
    """
    locked = pinned(inputs.locked, _ARTIFACT)
    with demanded([locked]):
        artifact = locked or _newest(inputs, workshop)
        workshop.progress(f"downloading Node.js {artifact.version}", 0.1)
        kept = f"node-{PLATFORMS[inputs.architecture]}.tar.xz"
        [tarball] = obtain([Published(kept, artifact.path, artifact.sha256, LARGEST_ARCHIVE)], workshop)
    layer.provenance = Provenance((artifact,), sources=(_server(inputs),))
    workshop.progress(f"unpacking Node.js {artifact.version}", 0.8)
    place(list(_files(tarball, inputs.architecture)), layer)


def _server(inputs: NodeArchiveInputs) -> str:
    return (inputs.server or OFFICIAL_SERVER).rstrip("/")


def _newest(inputs: NodeArchiveInputs, workshop: Workshop) -> Artifact:
    """Return the newest matching release's archive."""
    server, platform = _server(inputs), PLATFORMS[inputs.architecture]
    workshop.progress("asking for Node.js's releases", 0.0)
    url = f"{server}/index.json"
    index = fetch(url, limit=16 << 20, cancelled=workshop.cancelled)
    version = newest_release(index, url, inputs.version, platform)
    sums = f"{server}/{version}/SHASUMS256.txt"
    name = f"node-{version}-{platform}.tar.xz"
    digest = find_digest(fetch(sums, limit=1 << 20, cancelled=workshop.cancelled), sums, name)
    return Artifact(_ARTIFACT, version, inputs.architecture, SHA256 + digest, f"{server}/{version}/{name}")


def newest_release(index: bytes, url: str, wanted: str, platform: str) -> str:
    """Return the newest version, with its `v`, that has an archive for a platform.

    Args:
        index: The content of `index.json`.
        url: Where that is from, for messages.
        wanted: A version or the beginning of one, for example `20` or `20.11`.
        platform: One of `PLATFORMS`.

    Raises:
        LayerError: There is none, or it is no such index.
    """
    try:
        releases = _RELEASES.validate_python(json.loads(index))
    except (ValueError, ValidationError, RecursionError) as error:
        raise LayerError(
            f"{url} is no index of Node.js's releases", details=tuple(str(error).splitlines()[:20])
        ) from error
    matching = [
        release.version
        for release in releases
        if f"{release.version[1:]}.".startswith(f"{wanted}.") and platform in release.files
    ]
    if not matching:
        raise LayerError(f"{url} has no Node.js {wanted} for {platform}", hint="choose another version")
    return max(matching, key=lambda version: tuple(map(int, version[1:].split("."))))


def find_digest(sums: bytes, url: str, name: str) -> str:
    """Return a file's SHA-256 from the content of `SHASUMS256.txt`.

    Raises:
        LayerError: It has none.
    """
    for line in sums.decode("ascii", "replace").splitlines():
        if (found := _LINE.fullmatch(line.strip())) and found[2] == name:
            return found[1]
    raise LayerError(f"{url} has no SHA-256 of {name}")


def _files(tarball: Path, architecture: str) -> Iterator[PackagedFile]:
    # Its symbolic links are npm's and corepack's commands; npm's are made anew.
    for file in unpack(tarball, skip_links=True):
        if file.path.startswith(_NPM):
            target = npm_path(file.path.removeprefix(_NPM))
        else:
            target = node_path(file.path, architecture)
        if target is not None:
            yield replace(file, path=target)
