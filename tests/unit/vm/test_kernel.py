"""Kernels by name, and the cache of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from pathlib import Path

import pytest

from bouvet.errors import CacheError, KernelError
from bouvet.vm.debian_kernel import DebianKernel
from bouvet.vm.kernel import FileKernel, KernelCache, UrlKernel, parse_kernel
from tests.unit.vm.apt_archive import AptArchive
from tests.unit.vm.images import bzimage, vmlinux

IMAGE = bzimage("6.1.0-test")
DIGEST = hashlib.sha256(IMAGE).hexdigest()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "kernels")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("debian", DebianKernel("aarch64")),
        (f"debian#sha256={'A' * 64}", DebianKernel("aarch64", sha256="a" * 64)),
        ("file:/boot/vmlinuz", FileKernel(Path("/boot/vmlinuz"))),
        (f"file:a#sha256={DIGEST.upper()}", FileKernel(Path("a"), DIGEST)),
        (f"url:https://host/a?b#sha256={DIGEST}", UrlKernel("https://host/a?b", DIGEST)),
    ],
)
def test_the_names_of_kernels(text: str, source: object) -> None:
    assert parse_kernel(text, "aarch64") == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Debian",
        "file:",
        "url:https://host/a",
        "url:#sha256=" + DIGEST,
        "file:a#sha256=12",
        "/boot/vmlinuz",
    ],
)
def test_other_names_are_errors(text: str) -> None:
    with pytest.raises(KernelError):
        parse_kernel(text, "x86_64")


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(KernelError):
        parse_kernel("debian", "riscv64")


def test_a_file_becomes_a_kernel_in_the_cache(cache: KernelCache, image: Path) -> None:
    source = FileKernel(image, DIGEST)
    assert cache.find(source) is None
    kernel = cache.get(source)
    assert (kernel.release, kernel.architecture, kernel.kind) == ("6.1.0-test", "x86_64", "bzImage")
    assert (kernel.digest, kernel.name) == (DIGEST, f"file:{image}")
    assert (kernel.boot_modules, kernel.modules_disk) == ((), None)
    image.unlink()
    assert kernel.image.read_bytes() == IMAGE
    assert cache.find(source) == kernel
    assert cache.list() == [kernel]


def test_a_changed_file_is_another_kernel(cache: KernelCache, image: Path) -> None:
    first = cache.get(FileKernel(image))
    image.write_bytes(vmlinux("5.10.0"))
    second = cache.get(FileKernel(image))
    assert first.digest != second.digest
    assert [kernel.release for kernel in cache.list()] == ["5.10.0", "6.1.0-test"]


def test_a_file_with_another_digest_names_both(cache: KernelCache, image: Path) -> None:
    with pytest.raises(KernelError) as caught:
        cache.get(FileKernel(image, "0" * 64))
    assert [line.split()[-1] for line in caught.value.details] == ["0" * 64, DIGEST]
    assert cache.list() == []


@pytest.mark.parametrize("content", [b"", b"no kernel at all", None])
def test_what_is_no_kernel_leaves_nothing(cache: KernelCache, image: Path, content: bytes | None) -> None:
    image.unlink()
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(KernelError):
        cache.fetch(FileKernel(image))
    assert cache.list() == []
    assert not list((image.parent / "kernels").glob(".new-*"))


def test_what_a_killed_one_left_is_removed(cache: KernelCache, image: Path) -> None:
    left = image.parent / "kernels" / ".new-left"
    (left / "package").mkdir(parents=True)
    cache.fetch(FileKernel(image))
    assert not left.exists()


def test_everybody_may_read_a_kernel(cache: KernelCache, image: Path) -> None:
    image.chmod(0o600)
    kernel = cache.fetch(FileKernel(image))
    assert stat.S_IMODE(kernel.image.stat().st_mode) == 0o644


def test_a_damaged_record_is_named(cache: KernelCache, image: Path) -> None:
    kernel = cache.fetch(FileKernel(image))
    record = kernel.image.with_name("kernel.json")
    stored = json.loads(record.read_bytes())
    for content in (b"{", b"[]", json.dumps(stored | {"boot_modules": None}).encode()):
        record.write_bytes(content)
        with pytest.raises(CacheError):
            cache.list()


def test_a_cache_that_cannot_be_written_is_an_error(image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError):
        KernelCache(tmp_path / "file").fetch(FileKernel(image))


# Debian's kernel, from an archive of one package in a directory.


RELEASE = "9.9.0-1-cloud-amd64"


@pytest.fixture
def archive(tmp_path: Path) -> AptArchive:
    """An apt archive with a meta package and a kernel whose modules are all built in."""
    root = tmp_path / "package"
    modules = root / "lib" / "modules" / RELEASE
    modules.mkdir(parents=True)
    (root / "boot").mkdir()
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(bzimage(RELEASE))
    built_in = ("virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport")
    (modules / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in built_in))
    (modules / "modules.order").touch()
    archive = AptArchive(tmp_path / "archive")
    archive.add(f"linux-image-{RELEASE}", root)
    archive.add("linux-image-cloud-amd64", tmp_path / "empty", depends=f"linux-image-{RELEASE}")
    return archive


@pytest.fixture
def package(archive: AptArchive) -> Path:
    return archive.directory / f"linux-image-{RELEASE}_1_amd64.deb"


@pytest.mark.needs_tool("mmdebstrap", "apt-get", "dpkg-deb", "depmod")
def test_debians_kernel_comes_out_of_its_package(
    cache: KernelCache, archive: AptArchive, package: Path
) -> None:
    source = DebianKernel("x86_64", sources=(archive.source(),))
    kernel = cache.get(source)
    assert (kernel.name, kernel.release) == ("debian", RELEASE)
    assert kernel.digest == hashlib.sha256(package.read_bytes()).hexdigest()
    assert kernel.boot_modules == ()
    assert kernel.modules_disk is not None
    # Found without looking at the archive, and fetched again without downloading the package.
    assert cache.find(dataclasses.replace(source, sources=())) == kernel
    package.unlink()
    assert cache.fetch(source) == kernel
    # A lock names one package.
    locked = dataclasses.replace(source, sha256=kernel.digest)
    assert cache.find(locked) == cache.fetch(locked) == kernel
    other = dataclasses.replace(source, sha256="0" * 64)
    assert cache.find(other) is None
    with pytest.raises(KernelError, match="another kernel than the one that was asked for") as caught:
        cache.fetch(other)
    assert "--update kernel" in str(caught.value.hint)
    left = {path.name for path in kernel.image.parent.parent.iterdir()}
    assert left == {kernel.digest, "debian-bookworm-x86_64", "lock"}


@pytest.mark.needs_tool("mmdebstrap", "apt-get", "dpkg-deb")
def test_a_package_that_is_not_what_the_index_says_is_refused(
    cache: KernelCache, archive: AptArchive, package: Path
) -> None:
    content = bytearray(package.read_bytes())
    content[-1] ^= 1
    package.write_bytes(content)
    source = DebianKernel("x86_64", sources=(archive.source(),))
    with pytest.raises(KernelError) as caught:
        cache.fetch(source)
    assert any("Hash Sum mismatch" in line for line in caught.value.details)
    assert cache.find(source) is None


@pytest.mark.needs_tool("mmdebstrap", "apt-get")
def test_an_archive_that_is_not_there_is_named(cache: KernelCache, tmp_path: Path) -> None:
    source = DebianKernel("x86_64", sources=(f"deb [trusted=yes] copy://{tmp_path}/nothing bookworm main",))
    with pytest.raises(KernelError) as caught:
        cache.fetch(source)
    assert any(f"{tmp_path}/nothing" in line for line in caught.value.details)


@pytest.mark.needs_tool("mmdebstrap", "apt-get", "dpkg-deb")
def test_an_archive_without_a_signature_is_refused(cache: KernelCache, archive: AptArchive) -> None:
    with pytest.raises(KernelError) as caught:
        cache.fetch(DebianKernel("x86_64", sources=(archive.source(trusted=False),)))
    assert any("is not signed" in line for line in caught.value.details)
