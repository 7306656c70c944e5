"""Kernel images with little more than a header, for what never runs them."""

from __future__ import annotations

import struct


def bzimage(release: str) -> bytes:
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x600)
    text = f"{release} (builder@host) #1 SMP\0".encode()
    image[0x800 : 0x800 + len(text)] = text
    return bytes(image)


def arm64_image(release: str) -> bytes:
    return bytes(0x38) + b"ARM\x64" + bytes(100) + _banner(release)


def vmlinux(release: str, machine: int = 62) -> bytes:
    return b"\x7fELF\x02\x01" + bytes(12) + struct.pack("<H", machine) + bytes(100) + _banner(release)


def _banner(release: str) -> bytes:
    return f"\0Linux version {release} (builder@host) #1 SMP\0".encode()
