"""Kernels from servers, and kernels written for monitors that start nothing else than what is unpacked."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bouvet.cli.main import cli
from bouvet.errors import BouvetError, CacheError, KernelError
from bouvet.vm.kernel import FileKernel, KernelCache, UrlKernel, parse_kernel
from tests.unit.layers.file_server import FileServer, serving
from tests.unit.vm.images import arm64_image, bzimage, vmlinux
from tests.unit.vm.test_kernel_image import PVH_NOTE, packed

IMAGES = {
    "x86_64": ("vmlinux-5.10.245", vmlinux("5.10.245"), "vmlinux"),
    "aarch64": ("Image-6.1.155", arm64_image("6.1.155"), "Image"),
}


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "kernels")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as served:
        served.files = {name: content for name, content, _ in IMAGES.values()}
        yield served


def source(server: FileServer, architecture: str) -> UrlKernel:
    name, content, _ = IMAGES[architecture]
    digest = hashlib.sha256(content).hexdigest()
    parsed = parse_kernel(f"url:{server.url}/{name}#sha256={digest}", architecture)
    assert isinstance(parsed, UrlKernel)
    return parsed


@pytest.mark.parametrize("architecture", IMAGES)
def test_a_kernel_is_downloaded_once(architecture: str, server: FileServer, cache: KernelCache) -> None:
    name, content, kind = IMAGES[architecture]
    kernel = cache.get(source(server, architecture))
    assert (kernel.architecture, kernel.kind) == (architecture, kind)
    assert kernel.image.read_bytes() == content
    assert (kernel.boot_modules, kernel.modules_disk) == ((), None)
    assert cache.get(source(server, architecture)) == kernel
    assert server.requests == [name]


@pytest.mark.parametrize("fault", ["corrupt", "missing", "cut"])
def test_a_bad_download_is_refused_and_the_next_one_recovers(
    fault: str, server: FileServer, cache: KernelCache, tmp_path: Path
) -> None:
    name, content, _ = IMAGES["x86_64"]
    server.faults[name] = fault
    with pytest.raises(BouvetError) as raised:
        cache.get(source(server, "x86_64"))
    if fault == "corrupt":
        middle = len(content) // 2
        found = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        text = " ".join(raised.value.details)
        assert hashlib.sha256(content).hexdigest() in text
        assert hashlib.sha256(found).hexdigest() in text
    assert cache.list() == []
    assert not list((tmp_path / "kernels").glob(".new-*"))
    server.faults.clear()
    assert cache.get(source(server, "x86_64")).image.read_bytes() == content


@pytest.mark.parametrize(
    ("image", "written"),
    [
        (packed(vmlinux("6.1.0-test") + PVH_NOTE), vmlinux("6.1.0-test") + PVH_NOTE),
        (vmlinux("6.1.0-test"), vmlinux("6.1.0-test")),
        (arm64_image("6.1.0-test"), arm64_image("6.1.0-test")),
    ],
)
def test_a_kernel_is_written_unpacked(
    image: bytes, written: bytes, cache: KernelCache, tmp_path: Path
) -> None:
    (tmp_path / "kernel").write_bytes(image)
    kernel = cache.extract(FileKernel(tmp_path / "kernel"), tmp_path / "new" / "vmlinux")
    assert kernel.release == "6.1.0-test"
    assert (tmp_path / "new" / "vmlinux").read_bytes() == written


def test_a_kernel_that_cannot_be_unpacked_is_not_written(cache: KernelCache, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(bzimage("6.1.0-test"))
    with pytest.raises(KernelError, match="cannot be unpacked"):
        cache.extract(FileKernel(tmp_path / "vmlinuz"), tmp_path / "vmlinux")
    assert not (tmp_path / "vmlinux").exists()


def test_a_place_that_cannot_be_written_is_named(cache: KernelCache, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(vmlinux("6.1.0-test"))
    with pytest.raises(CacheError, match="cannot write"):
        cache.extract(FileKernel(tmp_path / "kernel"), tmp_path)


def test_the_command_extracts(empty_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(packed(vmlinux("6.1.0-test") + PVH_NOTE))
    arguments = ["kernel", "extract", f"file:{tmp_path}/vmlinuz", "--output", f"{tmp_path}/vmlinux", "--json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["kind"] == "vmlinux"
    # An ELF file for x86-64, as Firecracker asks for.
    assert struct.unpack_from("<4s14xH", (tmp_path / "vmlinux").read_bytes()) == (b"\x7fELF", 62)
