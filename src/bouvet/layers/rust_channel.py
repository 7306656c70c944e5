"""Channel manifests of Rust's distribution servers: which components a toolchain has, and where they are.

Source: "The Rust Release Channel Layout" in the Rust Forge (channel manifests, version 2), and the
manifests themselves:

    SERVER/dist/channel-rust-CHANNEL.toml          stable, beta, nightly, or a version as 1.96.0
    SERVER/dist/DATE/channel-rust-CHANNEL.toml     the channel as it was on a day
    ....toml.sha256                                its digest, as sha256sum(1) writes it

A manifest lists, for each package and target, an archive and its SHA-256. URLs in it begin with the
official server's, whichever server it comes from; a mirror's takes its place, as rustup does it.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError

from bouvet.download import fetch, published_sha256, wrong_digest
from bouvet.errors import DownloadError, LayerError
from bouvet.plan.provenance import SHA256, Artifact

if TYPE_CHECKING:
    import threading

OFFICIAL_SERVER = "https://static.rust-lang.org"
"""Rust's own distribution server: rustup's documented default, and how URLs in manifests begin."""

TARGETS = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}
"""Rust's name of each architecture."""

PROFILE = "minimal"
"""The profile that is installed: the compiler, its library and cargo; no documentation."""

CHANNEL = "channel-rust"
"""What a channel's manifest is called in a lock."""

_LARGEST_MANIFEST = 16 << 20
_DATED = re.compile(r"(?P<name>.+)-(?P<date>\d{4}-\d{2}-\d{2})")
_ANY_TARGET = "*"

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$")]
_Target = Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,100}|\*)$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    pkg: _Name
    target: _Target = _ANY_TARGET


class _TargetedPackage(BaseModel):
    available: bool
    url: str | None = None
    hash: _Digest | None = None
    xz_url: str | None = None
    xz_hash: _Digest | None = None
    components: list[_Part] = []
    extensions: list[_Part] = []


class _Package(BaseModel):
    version: str
    target: dict[_Target, _TargetedPackage]


class _Renamed(BaseModel):
    to: _Name


class _Manifest(BaseModel):
    version: Annotated[str, Field(alias="manifest-version", pattern="^2$")]
    date: datetime.date
    pkg: dict[str, _Package]
    renames: dict[str, _Renamed] = {}
    profiles: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Component:
    """A component of a toolchain.

    Attributes:
        package: Its package, for example `rustc` or `clippy-preview`.
        target: The target it is for, None where it is for every one.
        url: Its archive.
        sha256: The archive's digest in hexadecimal.
    """

    package: str
    target: str | None
    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The name that rustup's records in a toolchain call it by."""
        return self.package if self.target is None else f"{self.package}-{self.target}"


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel's manifest.

    Attributes:
        content: Its text.
        sha256: The digest of that, in hexadecimal.
        version: Rust's version, for example `1.96.0 (...)`.
        released: Midnight of the day it is from, in nanoseconds since 1970.
    """

    content: bytes
    sha256: str
    version: str
    released: int
    _manifest: _Manifest
    _server: str

    @property
    def number(self) -> str:
        """Rust's version alone: `1.96.0`."""
        return self.version.partition(" ")[0]

    def artifact(self, server: str, channel: str) -> Artifact:
        """Return the manifest as it stands in a lock: as it was on its day, which it stays.

        Args:
            server: The distribution server's URL.
            channel: What it was asked for as.
        """
        dated = _DATED.fullmatch(channel)
        name, day = dated["name"] if dated else channel, self._manifest.date.isoformat()
        url = f"{server}/dist/{day}/channel-rust-{name}.toml"
        return Artifact(CHANNEL, day, "", SHA256 + self.sha256, url)

    def components(self, target: str, wanted: Sequence[str]) -> list[Component]:
        """Return the profile's components and the wanted ones, by name.

        Args:
            target: The target whose toolchain it is.
            wanted: Names as `rustup component add` takes them: `clippy`, `rust-src`, or with a target
                `rust-std-wasm32-unknown-unknown`.

        Raises:
            LayerError: The channel has no such component for the target, or no toolchain for it at all.
        """
        rust = self._package("rust", target)
        known = [(part.pkg, part.target) for part in (*rust.components, *rust.extensions)]
        # A profile is for all platforms; what a target's toolchain has none of is not meant for it.
        profile = self._manifest.profiles.get(PROFILE, [])
        chosen = {part for part in known if part[0] in profile and part[1] in {target, _ANY_TARGET}}
        if not any(package == "rustc" for package, _ in chosen):
            raise LayerError(f"the manifest's profile '{PROFILE}' has no compiler for {target}")
        for name in wanted:
            chosen.add(self._find(name, target, known))
        return sorted((self._locate(*part) for part in chosen), key=lambda component: component.name)

    def _find(self, name: str, target: str, known: Sequence[tuple[str, str]]) -> tuple[str, str]:
        for package, part_target in known:
            own = part_target in {target, _ANY_TARGET}
            names = {package, *(old for old, new in self._manifest.renames.items() if new.to == package)}
            if (own and name in names) or name in {f"{each}-{part_target}" for each in names}:
                return package, part_target
        raise LayerError(
            f"Rust {self.version} has no component '{name}' for {target}",
            hint="the names are those of 'rustup component list', for example clippy, rustfmt or rust-src",
        )

    def _package(self, package: str, target: str) -> _TargetedPackage:
        found = self._manifest.pkg.get(package)
        targeted = found and (found.target.get(target) or found.target.get(_ANY_TARGET))
        if not targeted or not targeted.available:
            raise LayerError(
                f"Rust {self.version} has no '{package}' for {target}",
                hint="not every day's nightly has every component: choose another channel or day",
            )
        return targeted

    def _locate(self, package: str, target: str) -> Component:
        found = self._package(package, target)
        url, digest = (found.xz_url, found.xz_hash) if found.xz_url else (found.url, found.hash)
        if url is None or digest is None:
            raise LayerError(f"the manifest of Rust {self.version} does not say where '{package}' is")
        if url.startswith(OFFICIAL_SERVER + "/"):
            url = self._server + url.removeprefix(OFFICIAL_SERVER)
        return Component(package, None if target == _ANY_TARGET else target, url, digest)


def read_channel(server: str, channel: str, cancelled: threading.Event | None = None) -> Channel:
    """Fetch a channel's manifest and check it.

    Args:
        server: The distribution server's URL.
        channel: `stable`, `beta`, `nightly` or a version; all but the last may end in `-YYYY-MM-DD`.
        cancelled: Ends the transfer when it is set.

    Raises:
        DownloadError: It cannot be had, or its bytes are not those of the digest beside it.
        LayerError: It is not such a manifest.
    """
    server = server.rstrip("/")
    dated = _DATED.fullmatch(channel)
    place = f"{dated['date']}/channel-rust-{dated['name']}" if dated else f"channel-rust-{channel}"
    url = f"{server}/dist/{place}.toml"
    expected = published_sha256(f"{url}.sha256", fetch(f"{url}.sha256", limit=4096, cancelled=cancelled))
    content = fetch(url, limit=_LARGEST_MANIFEST, cancelled=cancelled)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise wrong_digest(url, expected, found)
    return parse_channel(content, server, url)


def read_locked_channel(
    server: str, channel: str, locked: Artifact, cancelled: threading.Event | None = None
) -> Channel:
    """Fetch a channel's manifest of the day that a lock names.

    Arguments as of `read_channel`.

    Raises:
        DownloadError: It cannot be had, or is another one.
        LayerError: It is not such a manifest.
    """
    server = server.rstrip("/")
    # A server that keeps no days may still have it as the newest.
    newest = f"{server}/dist/channel-rust-{channel}.toml"
    for url in (locked.path, newest):
        try:
            content = fetch(url, limit=_LARGEST_MANIFEST, cancelled=cancelled)
        except DownloadError:
            if url == newest:
                raise
            continue
        found = hashlib.sha256(content).hexdigest()
        if found == locked.sha256:
            return parse_channel(content, server, url)
    raise wrong_digest(newest, locked.sha256, found)


def parse_channel(content: bytes, server: str, url: str) -> Channel:
    """Read a manifest.

    Args:
        content: Its text.
        server: The URL that takes the official server's place in it.
        url: Where it is from, for messages.

    Raises:
        LayerError: It is no manifest of version 2.
    """
    try:
        manifest = _Manifest.model_validate(tomllib.loads(content.decode()))
        version = manifest.pkg["rust"].version
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError, KeyError, RecursionError) as error:
        raise LayerError(
            f"{url} is no manifest of a Rust channel", details=tuple(str(error).splitlines()[:20])
        ) from error
    midnight = datetime.datetime.combine(manifest.date, datetime.time(), tzinfo=datetime.UTC)
    return Channel(
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        version=version[:100],
        released=int(midnight.timestamp()) * 1_000_000_000,
        _manifest=manifest,
        _server=server,
    )
