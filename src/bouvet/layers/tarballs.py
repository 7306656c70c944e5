"""Reading the tarballs that packages are published in: a bounded number of plain files, and nothing else."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bouvet.errors import LayerError

LARGEST_PACKAGE = 2 << 30
"""Bytes that a package may have when it is unpacked."""

MOST_FILES = 200_000
"""Entries that a package may have."""


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of a package: its path inside it, its content, whether it is executable, and its time.

    Attributes:
        path: Relative to the package's root, without `.` or `..`.
        content: Its bytes.
        executable: Whether the owner may execute it.
        mtime: Nanoseconds since 1970.
    """

    path: bytes
    content: bytes
    executable: bool
    mtime: int


def unpack(tarball: Path, *, skip_links: bool = False) -> Iterator[PackagedFile]:
    """Yield the files of a package's tarball, without its first directory (as npm and rustup do).

    Args:
        tarball: A tar archive, compressed with gzip, xz or bzip2, or not at all.
        skip_links: Leave symbolic links out; without it they are an error.

    Raises:
        LayerError: A path leaves the package, an entry is not a file, or the package is too large.
    """
    total = 0
    try:
        with tarfile.open(tarball, "r:*") as archive:
            for count, member in enumerate(archive):
                total += member.size
                if total > LARGEST_PACKAGE or count >= MOST_FILES:
                    raise LayerError(
                        f"{tarball.name} holds more than {LARGEST_PACKAGE >> 20} MiB or {MOST_FILES} files"
                    )
                if member.isdir() or (skip_links and member.issym()):
                    continue
                parts = os.fsencode(member.name).split(b"/")
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or len(parts) < 2 or any(part in (b"", b".", b"..") for part in parts):
                    raise LayerError(f"{tarball.name} has an entry that no package has: {member.name!r}")
                with file:
                    yield PackagedFile(
                        path=b"/".join(parts[1:]),
                        content=file.read(),
                        executable=bool(member.mode & 0o100),
                        mtime=int(member.mtime) * 1_000_000_000,
                    )
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise LayerError(f"{tarball.name} cannot be unpacked: {error}") from error
