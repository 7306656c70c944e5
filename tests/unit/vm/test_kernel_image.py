"""What a kernel's image says about itself."""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest

from bouvet.errors import KernelError
from bouvet.formats.lz4 import LEGACY_MAGIC
from bouvet.vm.kernel_image import ImageFacts, read_image_facts, unpack_kernel
from tests.unit.vm.images import arm64_image, bzimage, vmlinux


def test_a_bzimage() -> None:
    assert read_image_facts(bzimage("6.1.0-50-cloud-amd64")) == ImageFacts(
        "bzImage", "x86_64", "6.1.0-50-cloud-amd64"
    )


def test_an_arm64_image() -> None:
    assert read_image_facts(arm64_image("6.1.141+")) == ImageFacts("Image", "aarch64", "6.1.141+")


@pytest.mark.parametrize(("machine", "architecture"), [(62, "x86_64"), (183, "aarch64")])
def test_an_elf_kernel(machine: int, architecture: str) -> None:
    assert read_image_facts(vmlinux("5.10.1", machine)) == ImageFacts("vmlinux", architecture, "5.10.1")


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" * 100,
        vmlinux("5.10.1", 243),
        bzimage("../../etc"),
        bzimage(""),
        bzimage("6.1\n"),
        vmlinux("5.10.1", 62).replace(b"Linux version", b"Other version"),
        bzimage("6.1.0")[:0x208],
        bzimage("6.1.0")[:0x20E] + struct.pack("<H", 0xFFFF),
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(KernelError):
        read_image_facts(image)


# Kernels inside kernels.


def packed(kernel: bytes, size: int | None = None) -> bytes:
    """Return a bzImage with a kernel in it, as one LZ4 block of literals."""
    more, rest = divmod(len(kernel) - 15, 255)
    block = b"\xf0" + b"\xff" * more + bytes([rest]) + kernel
    payload = LEGACY_MAGIC + len(block).to_bytes(4, "little") + block
    return around(payload + (len(kernel) if size is None else size).to_bytes(4, "little"))


def around(payload: bytes) -> bytes:
    """Return a bzImage with a payload; its last 4 bytes are the kernel's size."""
    image = bytearray(bzimage("6.1.0-test"))
    image[0x1F1] = 7
    struct.pack_into("<II", image, 0x248, 0x20, len(payload))
    return bytes(image).ljust(0x1020, b"\0") + payload


PVH_NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000000)


def test_a_kernel_is_unpacked() -> None:
    kernel = vmlinux("6.1.0-test") + PVH_NOTE
    image = packed(kernel)
    assert read_image_facts(image).kind == "bzImage"
    assert unpack_kernel(image) == kernel


def size_of(kernel: bytes) -> bytes:
    return len(kernel).to_bytes(4, "little")


def test_kernels_in_gzip_and_xz_are_unpacked() -> None:
    kernel = vmlinux("6.1.0-test") + PVH_NOTE + bytes(100_000)
    # A gzip file ends in the content's size; behind an xz file the kernel's build writes it.
    assert unpack_kernel(around(gzip.compress(kernel, mtime=0))) == kernel
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    frame = lzma.compress(kernel, check=lzma.CHECK_CRC32, filters=filters)
    assert unpack_kernel(around(frame + size_of(kernel))) == kernel


@pytest.mark.parametrize(
    "payload",
    [
        gzip.compress(bytes(1 << 20), mtime=0)[:-4] + bytes(4),
        gzip.compress(vmlinux("6.1.0-test") + PVH_NOTE, mtime=0)[:40] + bytes(4),
        b"\x1f\x8b" + bytes(100),
        lzma.compress(bytes(1 << 20)) + (100).to_bytes(4, "little"),
        lzma.compress(bytes(1 << 20))[:50] + (1 << 20).to_bytes(4, "little"),
        b"\xfd7zXZ\0" + bytes(100),
    ],
)
def test_damaged_payloads_are_not_unpacked(payload: bytes) -> None:
    assert unpack_kernel(around(payload)) is None


@pytest.mark.parametrize(
    "image",
    [
        packed(vmlinux("6.1.0-test")),  # a monitor could not start it
        packed(b"something else" + PVH_NOTE),
        packed(vmlinux("6.1.0-test") + PVH_NOTE, size=1),
        packed(vmlinux("6.1.0-test") + PVH_NOTE, size=0xFFFFFFFF),
        packed(vmlinux("6.1.0-test") + PVH_NOTE)[:-20],
        packed(vmlinux("6.1.0-test") + PVH_NOTE).replace(LEGACY_MAGIC, b"\x28\xb5\x2f\xfd"),
        bzimage("6.1.0-test"),
        vmlinux("6.1.0-test"),
        b"",
    ],
)
def test_what_cannot_be_unpacked_stays_as_it_is(image: bytes) -> None:
    assert unpack_kernel(image) is None
