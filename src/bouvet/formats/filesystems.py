"""Which file system an image holds, told by its superblock.

Sources: the kernel's documentation, "ext4 Data Structures and Algorithms", section 4.1 (`s_magic`);
"Squashfs Filesystem", and `include/uapi/linux/magic.h` (`SQUASHFS_MAGIC`); "EROFS", section "On-disk details"
(`EROFS_SUPER_MAGIC_V1`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Filesystem = Literal["ext4", "squashfs", "erofs"]
"""A file system that a machine boots from, by the kernel's name."""

READ_ONLY: frozenset[Filesystem] = frozenset(("squashfs", "erofs"))
"""Those that nothing can be written to."""

IDENTIFYING = 2048
"""How many bytes of an image tell its file system."""

_MAGIC: tuple[tuple[Filesystem, int, bytes], ...] = (
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, (0xE0F5E1E2).to_bytes(4, "little")),
    ("ext4", 1024 + 0x38, (0xEF53).to_bytes(2, "little")),
)


def identify_filesystem(beginning: bytes) -> Filesystem | None:
    """Return the file system that an image holds, None if it is none of these.

    Args:
        beginning: The image's first `IDENTIFYING` bytes; fewer where it has no more.
    """
    for name, offset, magic in _MAGIC:
        if beginning[offset : offset + len(magic)] == magic:
            return name
    return None


def read_only_filesystem(image: Path) -> Filesystem | None:
    """Return the file system of an image that can only be read; None if it is another, or no image at all."""
    try:
        with image.open("rb") as file:
            found = identify_filesystem(file.read(IDENTIFYING))
    except OSError:
        return None
    return found if found in READ_ONLY else None
