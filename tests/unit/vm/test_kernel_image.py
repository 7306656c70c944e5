"""What a kernel's image says about itself."""

from __future__ import annotations

import struct

import pytest

from bouvet.errors import KernelError
from bouvet.vm.kernel_image import ImageFacts, read_image_facts
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
