"""Node.js from a server that is laid out as nodejs.org."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bouvet import download
from bouvet.errors import BouvetError, LayerError, LockError
from bouvet.layers import nodejs_org
from bouvet.layers.nodejs_org import find_digest, newest_release
from bouvet.layers.writer import LayerWriter
from bouvet.plan.provenance import Locked
from bouvet.plan.steps import NodeArchiveInputs
from tests.unit.layers.bench import bench
from tests.unit.layers.file_server import FAULTS, HARMLESS_FAULTS, FileServer, serving
from tests.unit.layers.rust_distribution import PACKED, tarball

VERSION = "v20.19.1"
ARCHIVE = f"dist/{VERSION}/node-{VERSION}-linux-x64.tar.xz"
SUMS = f"dist/{VERSION}/SHASUMS256.txt"
INDEX = "dist/index.json"
FILES = {
    "bin/node": b"\x7fELF node",
    "include/node/node.h": b"header",
    "lib/node_modules/npm/bin/npm-cli.js": b"npm",
    "lib/node_modules/npm/bin/npx-cli.js": b"npx",
    "lib/node_modules/npm/docs/x.md": b"long",
    "lib/node_modules/corepack/dist/corepack.js": b"not asked for",
    "share/man/man1/node.1": b"long",
    "LICENSE": b"licence",
    "README.md": b"long",
}


def publish(server: FileServer, files: dict[str, bytes]) -> None:
    """Add a release for both architectures, and an index with more."""
    platforms = ["linux-arm64", "linux-x64", "osx-x64-tar", "src"]
    versions = ["v22.1.0", VERSION, "v20.9.0", "v20.1.0", "v2.0.0"]
    index: list[dict[str, object]] = [
        {"version": each, "date": "2025-04-22", "files": platforms, "lts": "Iron"} for each in versions
    ]
    index.insert(1, {"version": "v20.20.0", "date": "2025-05-22", "files": ["src"], "lts": False})
    server.files[INDEX] = json.dumps(index).encode()
    lines = []
    for platform in ("linux-arm64", "linux-x64"):
        name = f"node-{VERSION}-{platform}"
        content = tarball(files, name, "xz")
        server.files[f"dist/{VERSION}/{name}.tar.xz"] = content
        lines += [f"{'0' * 64}  {name}.tar.gz", f"{hashlib.sha256(content).hexdigest()}  {name}.tar.xz"]
    server.files[SUMS] = "\n".join([*lines, ""]).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    with serving() as started:
        publish(started, FILES)
        yield started


@pytest.fixture
def inputs(server: FileServer) -> NodeArchiveInputs:
    return NodeArchiveInputs("x86_64", "20", f"{server.url}/dist")


@pytest.mark.parametrize(("architecture", "platform"), nodejs_org.PLATFORMS.items())
def test_the_layer(
    server: FileServer, tmp_path: Path, layer: LayerWriter, architecture: str, platform: str
) -> None:
    nodejs_org.make(
        NodeArchiveInputs(architecture, "20", f"{server.url}/dist/"), bench(tmp_path).workshop, layer
    )
    modules = b"usr/lib/node_modules/npm/"
    assert {path: inode.content() for path, inode in layer.tree.items() if inode.is_regular} == {
        b"usr/bin/node": b"\x7fELF node",
        b"usr/include/node/node.h": b"header",
        modules + b"bin/npm-cli.js": b"npm",
        modules + b"bin/npx-cli.js": b"npx",
        modules + b"npmrc": b"prefix=/usr/local\nupdate-notifier=false\n",
        b"usr/share/doc/nodejs/copyright": b"licence",
    }
    assert {path: inode.target for path, inode in layer.tree.items() if inode.is_symlink} == {
        b"usr/bin/npm": b"../lib/node_modules/npm/bin/npm-cli.js",
        b"usr/bin/npx": b"../lib/node_modules/npm/bin/npx-cli.js",
    }
    assert layer.tree[b"usr/bin/node"].mode & 0o777 == 0o755
    assert {inode.mtime for inode in layer.tree.values()} == {PACKED * 10**9}
    archive = f"dist/{VERSION}/node-{VERSION}-{platform}.tar.xz"
    assert server.requests == [INDEX, SUMS, archive]


def test_the_archive_is_kept(
    inputs: NodeArchiveInputs, server: FileServer, tmp_path: Path, layer: LayerWriter
) -> None:
    for _ in range(2):
        nodejs_org.make(inputs, bench(tmp_path).workshop, layer)
    assert server.requests.count(ARCHIVE) == 1


@pytest.mark.parametrize(
    ("path", "fault"),
    # A wrong index only leads to another release, whose digest is its own.
    [
        (path, fault)
        for path in (INDEX, SUMS, ARCHIVE)
        for fault in FAULTS
        if (path, fault) != (INDEX, "corrupt")
    ],
)
def test_a_bad_download_is_refused_and_the_next_run_recovers(
    server: FileServer, tmp_path: Path, layer: LayerWriter, path: str, fault: str
) -> None:
    inputs = NodeArchiveInputs("x86_64", "20", f"{server.url}/dist")
    server.faults[path] = fault
    if (path, fault) == (SUMS, "corrupt"):
        # A digit of the digest, not of the names beside it.
        digest = hashlib.sha256(server.files[ARCHIVE]).hexdigest().encode()
        server.faults.clear()
        right = server.files[SUMS]
        server.files[SUMS] = right.replace(digest, b"0" * 64)
    with pytest.raises(BouvetError) as caught:
        nodejs_org.make(inputs, bench(tmp_path).workshop, layer)
    if fault == "hanging":
        assert "127.0.0.1: the server was silent" in caught.value.message
    if path == ARCHIVE and fault == "corrupt":
        assert caught.value.details[0].endswith(hashlib.sha256(server.files[ARCHIVE]).hexdigest())
        assert caught.value.details[1].startswith("found SHA-256")
    assert layer.tree == {}
    assert list((tmp_path / "downloads").iterdir()) == []
    assert list((tmp_path / "scratch").iterdir()) == []
    server.faults.clear()
    publish(server, FILES)
    nodejs_org.make(inputs, bench(tmp_path).workshop, layer)
    assert b"usr/bin/node" in layer.tree


@pytest.mark.parametrize("fault", HARMLESS_FAULTS)
@pytest.mark.parametrize("path", [INDEX, SUMS, ARCHIVE])
def test_a_difficult_server_is_lived_with(
    server: FileServer, tmp_path: Path, layer: LayerWriter, path: str, fault: str
) -> None:
    server.faults[path] = fault
    inputs = NodeArchiveInputs("x86_64", "20", f"{server.url}/dist")
    nodejs_org.make(inputs, bench(tmp_path).workshop, layer)
    assert b"usr/bin/node" in layer.tree


@pytest.mark.parametrize("missing", ["bin/node", "lib/node_modules/npm/bin/npm-cli.js"])
def test_an_archive_without_its_programs_is_refused(
    inputs: NodeArchiveInputs, server: FileServer, tmp_path: Path, layer: LayerWriter, missing: str
) -> None:
    publish(server, {path: content for path, content in FILES.items() if path != missing})
    with pytest.raises(LayerError, match="have no /usr/"):
        nodejs_org.make(inputs, bench(tmp_path).workshop, layer)
    assert layer.tree == {}


@pytest.mark.parametrize(
    ("wanted", "version"), [("20", VERSION), ("20.9", "v20.9.0"), ("20.1.0", "v20.1.0"), ("2", "v2.0.0")]
)
def test_the_newest_release_of_a_prefix(server: FileServer, wanted: str, version: str) -> None:
    assert newest_release(server.files[INDEX], "index", wanted, "linux-x64") == version


@pytest.mark.parametrize("wanted", ["21", "20.20", "1"])
def test_a_version_that_is_not_there(server: FileServer, wanted: str) -> None:
    with pytest.raises(LayerError, match=f"has no Node.js {wanted}"):
        newest_release(server.files[INDEX], "index", wanted, "linux-x64")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b'[{"version": "../../v1", "files": []}]', b'[{"version": "v1.0.0"}]', b"[" * 9999],
)
def test_what_is_no_index_is_refused(content: bytes) -> None:
    with pytest.raises(LayerError, match="is no index"):
        newest_release(content, "index", "20", "linux-x64")


@pytest.mark.parametrize("line", [b"", b"0" * 63 + b"  file\n", b"0" * 64 + b"  other-file\n", b"\xff  file"])
def test_a_digest_that_is_not_there(line: bytes) -> None:
    with pytest.raises(LayerError, match="has no SHA-256 of file"):
        find_digest(line, "sums", "file")


def test_a_locked_release_is_taken_though_there_are_newer_ones(
    server: FileServer, inputs: NodeArchiveInputs, tmp_path: Path, layer: LayerWriter
) -> None:
    nodejs_org.make(inputs, bench(tmp_path).workshop, layer)
    told = layer.provenance
    [artifact] = told.artifacts
    assert (artifact.name, artifact.version, artifact.architecture) == ("node", VERSION, "x86_64")
    assert artifact.sha256 == hashlib.sha256(server.files[ARCHIVE]).hexdigest()
    for gone in (INDEX, SUMS):
        del server.files[gone]
    (tmp_path / "elsewhere").mkdir()
    locked = replace(inputs, locked=Locked(told.artifacts, told.sources))
    nodejs_org.make(locked, bench(tmp_path / "elsewhere").workshop, layer)
    assert layer.provenance == told
    server.files[ARCHIVE] += b"x"
    (tmp_path / "again").mkdir()
    with pytest.raises(LockError, match="is not the file that was asked for") as caught:
        nodejs_org.make(locked, bench(tmp_path / "again").workshop, layer)
    assert f"node {VERSION} x86_64" in caught.value.details
