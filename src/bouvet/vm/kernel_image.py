"""What a kernel's image says about itself: its kind, its architecture and its release.

Sources: the kernel's Documentation/x86/boot.rst (bzImage), Documentation/arm64/booting.rst (Image), and
the System V ABI (the ELF header of an uncompressed `vmlinux`).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from bouvet.errors import KernelError

MAX_IMAGE = 512 << 20
"""The most bytes of a kernel's image: an unstripped `vmlinux` has some tens of MiB."""

_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_BANNER = re.compile(rb"Linux version ([0-9][!-~]{1,127}) ")
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


def _banner_release(image: bytes) -> str:
    found = _BANNER.search(image)
    return _release(found.group(1) if found else b"")


def _release(text: bytes) -> str:
    if not _RELEASE.fullmatch(text):
        raise KernelError("the kernel's image does not say its release")
    return text.decode()
