"""Container images found: by transport, tag and platform; damaged and hostile descriptions refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bouvet.errors import BouvetError, FormatError, LayerError, SpecError
from bouvet.layers.oci_source import ContainerImage, find_image
from tests.unit.layers.container_images import INDEX, Blob, Layout, digest, docker_archive, entry, tar

ONE, TWO = Blob.gzipped(tar(entry("one"))), Blob(tar(entry("two")), tar(entry("two")))
CONFIG = {
    "Env": ["PATH=/bin", "EMPTY=", "no equals sign", "=x"],
    "Entrypoint": ["/bin/app"],
    "Cmd": None,
    "User": "7:8",
    "WorkingDir": "/srv",
}


def find(source: str, architecture: str = "x86_64") -> ContainerImage:
    return find_image(source, architecture, Path(), Path("/nonexistent"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_an_image_is_found_with_its_configuration(layout: Layout, tmp_path: Path, transport: str) -> None:
    layout.index(layout.image([ONE, TWO], config=CONFIG))
    path = layout.path if transport == "oci" else layout.archive(tmp_path / "image.tar")
    image = find(f"{transport}:{path}")
    assert image.configuration.environment == (("PATH", "/bin"), ("EMPTY", ""))
    assert image.configuration.entrypoint == ("/bin/app",)
    assert (image.configuration.command, image.configuration.user) == ((), "7:8")
    assert image.configuration.directory == "/srv"
    assert [layer.diff_id for layer in image.layers] == [digest(ONE.content), digest(TWO.content)]
    for layer, blob in zip(image.layers, (ONE, TWO), strict=True):
        with layer.place.path.open("rb") as file:
            file.seek(layer.place.offset)
            assert file.read(layer.place.size) == blob.stored
        assert layer.digest == digest(blob.stored)


@pytest.mark.parametrize("twice", [False, True])
def test_a_docker_archive_is_read(tmp_path: Path, twice: bool) -> None:
    layers = [ONE.content, ONE.content if twice else TWO.content]
    path = docker_archive(tmp_path / "saved.tar", layers, ["team/box:v1"], twice=twice)
    for source in (
        f"docker-archive:{path}",
        f"docker-archive:{path}:v1",
        f"docker-archive:{path}:team/box:v1",
    ):
        image = find(source)
        assert [layer.diff_id for layer in image.layers] == [digest(layer) for layer in layers]
        assert [layer.digest for layer in image.layers] == [None, None]
    with pytest.raises(SpecError, match="no such images"):
        find(f"docker-archive:{path}:v2")


def test_platforms_and_tags_choose(layout: Layout) -> None:
    def named(tag: str) -> dict[str, str]:
        return {"org.opencontainers.image.ref.name": tag}

    intel = layout.image([ONE], platform={"architecture": "amd64", "os": "linux"})
    arm = layout.image([TWO], architecture="arm64", platform={"architecture": "arm64", "os": "linux"})
    attestation = layout.image([], platform={"architecture": "unknown", "os": "unknown"})
    nested = layout.blob(
        json.dumps({"schemaVersion": 2, "manifests": [intel, arm, attestation]}).encode(),
        INDEX,
        annotations=named("both"),
    )
    other = layout.image([TWO, ONE], annotations=named("other"))
    layout.index(nested, other)
    assert find(f"oci:{layout.path}:both").layers[0].diff_id == digest(ONE.content)
    assert find(f"oci:{layout.path}:both", "aarch64").layers[0].diff_id == digest(TWO.content)
    assert len(find(f"oci:{layout.path}:other").layers) == 2
    with pytest.raises(SpecError, match="2 images") as raised:
        find(f"oci:{layout.path}")
    assert "both, other" in (raised.value.hint or "")
    with pytest.raises(SpecError, match="no image"):
        find(f"oci:{layout.path}:absent")
    with pytest.raises(SpecError, match="not for linux on aarch64"):
        find(f"oci:{layout.path}:other", "aarch64")


Change = Callable[[dict[str, Any]], object]

TAMPERED_MANIFESTS: dict[str, Change] = {
    "layer's size": lambda manifest: manifest["layers"][0].update(size=1),
    "digest that is a path": lambda manifest: manifest["layers"][0].update(digest="../../../etc/passwd"),
    "algorithm": lambda manifest: manifest["layers"][0].update(digest="md5:" + "0" * 32),
    "media type": lambda manifest: manifest["layers"][0].update(mediaType="application/x-tar+encrypted"),
    "missing blob": lambda manifest: manifest["layers"][0].update(digest=digest(b"absent")),
    "layer that nobody vouches for": lambda manifest: manifest["layers"].append(manifest["layers"][0]),
    "layers": lambda manifest: manifest.update(layers=7),
    "many layers": lambda manifest: manifest.update(layers=manifest["layers"] * 2000),
    "configuration": lambda manifest: manifest.update(config=manifest["layers"][0]),
}


@pytest.mark.parametrize("what", TAMPERED_MANIFESTS)
def test_tampered_manifests_are_refused(layout: Layout, what: str) -> None:
    image = layout.image([ONE])
    manifest = json.loads((layout.path / "blobs" / image["digest"].replace(":", "/")).read_text())
    TAMPERED_MANIFESTS[what](manifest)
    layout.index(layout.blob(json.dumps(manifest).encode(), image["mediaType"]))
    with pytest.raises((FormatError, LayerError)):
        find(f"oci:{layout.path}")


def index_in_itself(layout: Layout) -> None:
    deep = layout.image([ONE])
    for _ in range(9):
        deep = layout.blob(json.dumps({"manifests": [deep]}).encode(), INDEX)
    layout.index(deep)


def other_manifest(layout: Layout) -> None:
    image = layout.image([ONE])
    path = layout.path / "blobs" / image["digest"].replace(":", "/")
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))
    layout.index(image)


def nested_json(layout: Layout) -> None:
    (layout.path / "index.json").write_bytes(b"[" * 100_000)


def large_index(layout: Layout) -> None:
    (layout.path / "index.json").write_bytes(b" " * (5 << 20))


def fifo(layout: Layout) -> None:
    os.mkfifo(layout.path / "index.json")


def link(layout: Layout) -> None:
    (layout.path / "index.json").symlink_to("/etc/passwd")


@pytest.mark.parametrize("tamper", [index_in_itself, other_manifest, nested_json, large_index, fifo, link])
def test_tampered_layouts_are_refused(layout: Layout, tamper: Callable[[Layout], None]) -> None:
    tamper(layout)
    with pytest.raises((FormatError, LayerError)):
        find(f"oci:{layout.path}")


def rewritten(path: Path, change: Any) -> Path:
    """Apply a change to an archive's bytes."""
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:700],
        lambda content: content.replace(b'"linux"', b'"lynux"'),
        lambda content: content.replace(b'"Layers": ["0', b'"Layers": ["9'),
        lambda content: b"\x1f\x8b" + content,
        lambda content: b"",
    ],
    ids=["short", "configuration", "layer", "compressed", "empty"],
)
def test_damaged_docker_archives_are_refused(tmp_path: Path, change: Any) -> None:
    path = docker_archive(tmp_path / "saved.tar", [ONE.content], ["box:v1"])
    with pytest.raises(BouvetError):
        find(f"docker-archive:{rewritten(path, change)}")


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_what_is_not_there_is_said(tmp_path: Path, transport: str) -> None:
    with pytest.raises(SpecError, match="absent"):
        find(f"{transport}:{tmp_path}/absent")
