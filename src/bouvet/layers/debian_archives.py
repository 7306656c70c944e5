"""The `.deb` files that are kept between builds.

    DOWNLOADS/NAME_VERSION_ARCHITECTURE.deb.SHA256

apt trusts a file in its archive directory when its size is right. So each file carries the digest of
its bytes, taken right after apt had verified them against the signed index, and is checked before apt
sees it again. Files are hard-linked between here and the build: nothing is copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.layers import plain_debs

if TYPE_CHECKING:
    from bouvet.plan.provenance import Artifact


def stage(downloads: Path, directory: Path) -> int:
    """Link the kept packages that are intact into `directory`; remove the others.

    Args:
        downloads: Where packages are kept.
        directory: An existing directory on the same file system; what it has stays.

    Returns:
        How many packages were linked.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(lambda kept: _stage(kept, directory), sorted(downloads.glob("*.deb.*"))))


def _stage(kept: Path, directory: Path) -> bool:
    """Link a kept package if it is intact, or remove it; return whether it was linked."""
    name, _, digest = kept.name.rpartition(".")
    # Another build dropped it meanwhile; or there is one already, of a lock.
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        if _sha256(kept) == digest:
            os.link(kept, directory / name)
            return True
        kept.unlink()
    return False


def collect(directory: Path, downloads: Path, *, replacing: bool = True) -> dict[str, str]:
    """Keep the packages of a finished build.

    Args:
        directory: Where apt's verified packages were linked to; on the file system of `downloads`.
        downloads: Where packages are kept.
        replacing: Whether other versions of the same packages are dropped.

    Returns:
        The SHA-256 of each, in hexadecimal, by its name.
    """
    digests: dict[str, str] = {}
    versions: dict[tuple[str, str], set[Path]] = {}
    for kept in downloads.glob("*.deb.*"):
        versions.setdefault(_package(kept.name), set()).add(kept)
    for fetched in sorted(directory.glob("*.deb")):
        # Packages' scripts may have put anything there.
        if fetched.is_symlink() or not fetched.is_file():
            continue
        digests[fetched.name] = _sha256(fetched)
        kept = downloads / f"{fetched.name}.{digests[fetched.name]}"
        with contextlib.suppress(FileExistsError):
            os.link(fetched, kept)
        for other in versions.get(_package(kept.name), set()) - {kept} if replacing else ():
            other.unlink(missing_ok=True)
    plain_debs.drop_others(
        plain(downloads), {path.name.rpartition(".")[2] for path in downloads.glob("*.deb.*")}
    )
    return digests


def plain(downloads: Path) -> Path:
    """Return the directory of the same packages, decompressed (`plain_debs`)."""
    return downloads / "plain"


def file_name(artifact: Artifact) -> str:
    """Return the name that apt gives a package's file in its cache."""
    version = artifact.version.replace(":", "%3a")
    return f"{artifact.name}_{version}_{artifact.architecture}.deb"


def _package(file_name: str) -> tuple[str, str]:
    """Return the package's name and architecture from `NAME_VERSION_ARCHITECTURE.deb...`."""
    name, _, rest = file_name.partition("_")
    return name, rest.partition(".deb")[0].rpartition("_")[2]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
