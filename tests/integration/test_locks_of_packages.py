"""Locks of what apt, pip, npm and cargo add to a preset: what is written, and taken again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet import locking
from bouvet.errors import LockError
from bouvet.layers.npm_packages import BEFORE
from bouvet.layers.store import Store
from bouvet.making import make_layers
from bouvet.order import Order
from bouvet.plan import host_architecture
from bouvet.plan.lock import ImageLock
from bouvet.plan.provenance import Artifact, Locked
from bouvet.spec import load
from tests.conftest import USER_CACHE, BuiltImage
from tests.integration.test_specs import crate_registry
from tests.integration.tiny_debian import Archive
from tests.integration.tiny_debian import serving as serving_debian
from tests.unit.layers.npm_registry import Registry, integrity, pack, serving

pytestmark = [pytest.mark.needs_tool("mmdebstrap"), pytest.mark.slow]

MODULES = "node_modules/bouvet-top"
CACHE = USER_CACHE / "bouvet"
NO_KERNEL = "0" * 64
SPEC = f"""
extends = "devbox"
[kernel]
source = "url"
url = {{ x86_64 = "http://127.0.0.1:1/vmlinux", aarch64 = "http://127.0.0.1:1/Image" }}
sha256 = {{ x86_64 = "{NO_KERNEL}", aarch64 = "{NO_KERNEL}" }}
"""


def order_of(directory: Path, tables: str, preset: str = "devbox") -> Order:
    spec = directory / "spec.toml"
    spec.write_text(SPEC.replace("devbox", preset) + tables)
    return Order(load(str(spec)), host_architecture(), "spec", directory)


def lock(order: Order, name: str) -> ImageLock:
    """Make a step's layer, over those that the cache has, and lock what they were made from."""
    with Store(CACHE) as store:
        # An earlier run's packages had other bytes.
        store.evict(next(step.digest for step in order.steps if step.name == name))
    path = order.directory / "bouvet.lock"
    locking.write_lock(order, "spec", path, cache=CACHE)
    return locking.read_lock(path)["spec", order.architecture]


def make(order: Order, name: str, locked: Locked) -> tuple[tuple[Artifact, ...], dict[bytes, bytes]]:
    """Make a step's layer with a lock, over the layers that are there without one.

    Returns:
        What it is made from, and its small files.
    """
    order = dataclasses.replace(order, locks={name: locked})
    step = next(step for step in order.steps if step.name == name)
    with Store(CACHE) as store:
        layers = make_layers(
            order, store, False, lambda event: None, only=frozenset({*step.after, step.name})
        )
        layer = next(layer for layer in layers if layer.name == name)
        small = {path: inode for path, inode in layer.tree.items() if inode.is_regular and inode.size < 99}
        return layer.provenance.artifacts, {path: inode.content() for path, inode in small.items()}


def changed(artifacts: tuple[Artifact, ...], name: str, **values: str) -> Locked:
    """Return a lock that says something else of one artifact."""
    return Locked(
        tuple(dataclasses.replace(each, **values) if each.name == name else each for each in artifacts)
    )


def test_packages_that_the_trees_own_apt_adds(base_image: BuiltImage, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with serving_debian(tmp_path / "archive") as archive:
        publish_packages(archive, "1:1.0")
        source = f'{{ name = "own", uris = ["{archive.url}"], suites = ["./"], trusted = true }}'
        order = order_of(tmp_path, f'[apt]\nadd = ["bouvet-top"]\nsources = [{source}]\n', "base")
        step = lock(order, "apt").steps["apt"]
        assert {each.name: each.version for each in step.artifacts} == {
            "bouvet-top": "1:1.0",
            "bouvet-below": "1:1.0",
        }
        assert f"deb {archive.url} ./" in step.sources
        publish_packages(archive, "1:2.0")
        artifacts, files = make(order, "apt", Locked(step.artifacts, step.sources))
        assert artifacts == step.artifacts
        assert files[b"usr/share/bouvet-below"] == b"1:1.0"
        assert not [path for path in files if path.endswith((b"/lock", b"/lock.list"))]
        with pytest.raises(LockError, match="1 of 2 packages of the lock cannot be had") as caught:
            make(order, "apt", changed(step.artifacts, "bouvet-below", digest="sha256:" + "0" * 64))
        assert any(line.startswith("bouvet-below 1:1.0") for line in caught.value.details)
        path = order.directory / "bouvet.lock"
        done = locking.write_lock(order, "spec", path, update=["bouvet-below"], cache=CACHE)
        assert done.changes == ("apt: bouvet-below 1:1.0 -> 1:2.0",)


def publish_packages(archive: Archive, version: str) -> None:
    for name, depends in (("bouvet-top", "bouvet-below"), ("bouvet-below", "")):
        archive.add(name, {f"usr/share/{name}": version.encode()}, version=version, depends=depends)
    archive.publish()


def test_python_packages(devbox_image: BuiltImage, tmp_path: Path) -> None:
    order = order_of(tmp_path, '[pip]\npackages = ["requests==2.32.3"]\n')
    found = lock(order, "pip").steps["pip"].artifacts
    versions = {each.name: each.version for each in found}
    assert versions["requests"] == "2.32.3"
    assert {"idna", "urllib3", "certifi"} <= set(versions), "what it needs is locked too"
    artifacts, files = make(order, "pip", Locked(found))
    assert artifacts == found
    assert any(path.endswith(b"/requests-2.32.3.dist-info/INSTALLER") for path in files)
    with pytest.raises(LockError, match="cannot be had") as caught:
        make(order, "pip", changed(found, "idna", digest="sha256:" + "0" * 64))
    assert any("idna" in line for line in caught.value.details)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with serving() as server:
        for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
            monkeypatch.setenv(name, server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


def publish(registry: Registry, name: str, version: str, depends: str = "") -> bytes:
    about = {"name": name, "version": version, "dependencies": {depends: "^1"} if depends else {}}
    content = pack({"package.json": json.dumps(about).encode(), "index.js": version.encode()})
    registry.publish(name, version, content)
    registry.packages[name][version]["dependencies"] = about["dependencies"]
    return content


def test_node_packages(devbox_image: BuiltImage, tmp_path: Path, registry: Registry) -> None:
    top = publish(registry, "bouvet-top", "1.0.0", depends="bouvet-below")
    below = publish(registry, "bouvet-below", "1.0.0")
    order = order_of(tmp_path, '[npm]\npackages = ["bouvet-top@1"]\n')
    step = lock(order, "npm").steps["npm"]
    assert step.artifacts == (
        Artifact(
            "bouvet-below", "1.0.0", digest=integrity(below), path=f"{MODULES}/node_modules/bouvet-below"
        ),
        Artifact("bouvet-top", "1.0.0", digest=integrity(top), path=MODULES),
    )
    assert step.sources[0].startswith(BEFORE)
    # What is published later is not taken, as long as the registry says when that was.
    for name in ("bouvet-top", "bouvet-below"):
        publish(registry, name, "1.1.0", depends="bouvet-below" if name == "bouvet-top" else "")
        registry.times[name, "1.1.0"] = "2100-01-01T00:00:00.000Z"
    artifacts, files = make(order, "npm", Locked(step.artifacts, step.sources))
    assert artifacts == step.artifacts
    assert files[f"usr/local/lib/{MODULES}/index.js".encode()] == b"1.0.0"
    with pytest.raises(LockError, match="not what the lock says") as caught:
        make(order, "npm", changed(step.artifacts, "bouvet-below", version="1.0.1"))
    assert any("bouvet-below 1.0.1: is in the lock" in line for line in caught.value.details)


def test_rust_programs(devbox_image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_of(tmp_path, '[cargo]\npackages = ["answer"]\n')
    (tmp_path / "registry").mkdir()
    with crate_registry(tmp_path / "registry") as index:
        monkeypatch.setenv("CARGO_REGISTRIES_OWN_INDEX", index)
        monkeypatch.setenv("CARGO_REGISTRY_DEFAULT", "own")
        [found] = lock(order, "cargo").steps["cargo"].artifacts
        assert (found.name, found.version) == ("answer", "0.1.0")
        entry = json.loads((tmp_path / "registry/an/sw/answer").read_text())
        assert found.sha256 == entry["cksum"]
        assert make(order, "cargo", Locked((found,)))[0] == (found,)
        with pytest.raises(LockError, match="cannot be had"):
            make(order, "cargo", changed((found,), "answer", version="0.2.0"))
