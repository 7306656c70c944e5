"""What a kernel's image says about itself: its kind, its architecture and its release.

Sources: the kernel's Documentation/x86/boot.rst (bzImage), Documentation/arm64/booting.rst (Image), and
the System V ABI (the ELF header of an uncompressed `vmlinux`).
"""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from dataclasses import dataclass

from bouvet.errors import FormatError, KernelError
from bouvet.formats.lz4 import LEGACY_MAGIC, unpack_legacy

MAX_IMAGE = 512 << 20
"""The most bytes of a kernel's image: an unstripped `vmlinux` has some tens of MiB."""

_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_BANNER = re.compile(rb"Linux version ([0-9][!-~]{1,127}) ")
# An ELF note of the owner Xen, type 18 (XEN_ELFNOTE_PHYS32_ENTRY): where a monitor may enter the kernel.
_PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")
_GZIP_MAGIC, _XZ_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\0"
_XZ_MEMORY = 256 << 20  # the kernel's build asks for a dictionary of 32 MiB, or of 128
_RELEASE = re.compile(rb"[0-9][A-Za-z0-9.+~_-]{0,127}")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """A kernel image's own description.

    Attributes:
        kind: `bzImage`, `vmlinux` (ELF) or `Image` (arm64).
        architecture: `x86_64` or `aarch64`.
        release: As `uname -r` prints it, for example `6.1.0-50-cloud-amd64`.
    """

    kind: str
    architecture: str
    release: str


def read_image_facts(image: bytes) -> ImageFacts:
    """Return what a kernel image is.

    Raises:
        KernelError: It is no kernel of a supported architecture.
    """
    if image[0x202:0x206] == b"HdrS" and len(image) >= 0x210:
        (place,) = struct.unpack_from("<H", image, 0x20E)
        return ImageFacts("bzImage", "x86_64", _release(image[0x200 + place : 0x280 + place].split(b" ")[0]))
    if image[0x38:0x3C] == b"ARM\x64":
        return ImageFacts("Image", "aarch64", _banner_release(image))
    if image[:6] == b"\x7fELF\x02\x01" and len(image) >= 64:
        (machine,) = struct.unpack_from("<H", image, 18)
        if machine in _ELF_MACHINES:
            return ImageFacts("vmlinux", _ELF_MACHINES[machine], _banner_release(image))
    raise KernelError(
        "the file is no Linux kernel for x86_64 or aarch64",
        hint="give a bzImage (vmlinuz), an arm64 Image, or an ELF vmlinux",
    )


def unpack_kernel(image: bytes) -> bytes | None:
    """Return the ELF kernel inside a bzImage, or None if it cannot be unpacked or not be started.

    It spares the guest the unpacking, for which an emulated processor needs a third of a second. (The
    code that is left out would also have chosen a random address for the kernel.) LZ4, which Debian's
    cloud kernel uses, gzip and xz are known here.
    """
    if image[0x202:0x206] != b"HdrS" or len(image) < 0x250:
        return None
    setup = 512 * (1 + (image[0x1F1] or 4))
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup + offset : setup + offset + length]
    # Behind the compressed bytes is their size when unpacked.
    packed, size = payload[:-4], int.from_bytes(payload[-4:], "little")
    kernel = (_unpack(packed, size) if size <= MAX_IMAGE else None) or b""
    return kernel if kernel.startswith(b"\x7fELF") and _PVH_NOTE.search(kernel) else None


def _unpack(packed: bytes, size: int) -> bytes | None:
    """Return the bytes that were compressed, if it is known how and they are so many."""
    try:
        if packed.startswith(LEGACY_MAGIC):
            return unpack_legacy(packed, size)
        if packed.startswith(_GZIP_MAGIC):
            content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(packed, size + 1)
        elif packed.startswith(_XZ_MAGIC):
            content = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY).decompress(packed, size + 1)
        else:
            return None
    except (FormatError, zlib.error, lzma.LZMAError):
        return None
    return content if len(content) == size else None


def _banner_release(image: bytes) -> str:
    found = _BANNER.search(image)
    return _release(found.group(1) if found else b"")


def _release(text: bytes) -> str:
    if not _RELEASE.fullmatch(text):
        raise KernelError("the kernel's image does not say its release")
    return text.decode()
