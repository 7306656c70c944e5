"""Debian packages of a lock: had by their digests, and given to apt as an archive of their own.

    DIRECTORY/NAME_VERSION_ARCHITECTURE.deb    the files, by the names that apt gives them in its cache
    DIRECTORY/{Packages,Release}               the archive's index, with the locked digests

Whichever mirror a file comes from, the lock's digest says whether it is the right one. Where a mirror has
other versions by now, those that builds have kept do, and a snapshot.

Source: the Debian repository format (flat repositories), sources.list(5), apt_preferences(5).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet import process
from bouvet.download import download
from bouvet.errors import DownloadError, LayerError, LockError
from bouvet.layers.debian_archives import file_name
from bouvet.layers.kept_downloads import PARALLEL
from bouvet.plan.provenance import SHA256, Artifact

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop

LARGEST_PACKAGE = 4 << 30
"""Bytes that a package may have."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_PATH = re.compile(r"(?!/)(?!.*(^|/)\.\.?(/|$))[!-~]+")
_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s")
_FIELDS = ("Package", "Version", "Architecture", "Filename", "SHA256")
# One process for all of them, and a line between two: `dpkg-deb` takes one file.
_SHOW_ALL = 'for file; do dpkg-deb --field "$file" && echo || exit; done'


def addresses(lines: Iterable[str]) -> list[str]:
    """Return the addresses of archives from lines of apt's one-line format, each once."""
    found = (match[1].rstrip("/") for line in lines if (match := _LINE.match(line)))
    return list(dict.fromkeys(found))


def mirror_lines(mirror: str, suite: str) -> list[str]:
    """Return the lines of apt's one-line format for a mirror or a snapshot, in the form that a spec has it.

    Raises:
        LayerError: The URL says nothing about where the security archive is.
    """
    if mirror.startswith("deb "):
        return mirror.splitlines()
    url = mirror.rstrip("/")
    # A snapshot has its time after the archive's name.
    before, found, after = f"{url}/".rpartition("/debian/")
    if not found:
        raise LayerError(
            f"the mirror {mirror} has no '/debian' in it",
            hint="give apt source lines ('deb URL SUITE main'), one for the suite, one for its security",
        )
    security = f"{before}/debian-security/{after}".rstrip("/")
    return [
        f"deb {url} {suite} main",
        f"deb {url} {suite}-updates main",
        f"deb {security} {suite}-security main",
    ]


def obtain(
    artifacts: Sequence[Artifact], archives: Sequence[str], workshop: Workshop, directory: Path
) -> None:
    """Put locked packages into a directory, from what is kept or else from an archive.

    Args:
        artifacts: The packages.
        archives: Addresses of archives that may have them, tried in this order.
        workshop: Its downloads keep them.
        directory: An existing directory on the file system of the downloads.

    Raises:
        LockError: Some cannot be had; the details list them.
    """
    missing: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        futures = {
            pool.submit(_obtain, artifact, archives, workshop, directory): artifact for artifact in artifacts
        }
        for count, future in enumerate(concurrent.futures.as_completed(futures), 1):
            workshop.progress(f"package {count} of {len(artifacts)} of the lock", None)
            if (reason := future.result()) is not None:
                missing.append(f"{futures[future]}: {reason}")
    if missing:
        raise LockError(
            f"{len(missing)} of {len(artifacts)} packages of the lock cannot be had",
            hint="name a snapshot of the archive (debian.snapshot), or take newer ones: bouvet lock --update",
            details=tuple(sorted(missing)),
        )


def write_archive(artifacts: Sequence[Artifact], directory: Path, suite: str) -> None:
    """Write the index over the packages in a directory.

    Args:
        artifacts: The packages.
        directory: Where they are.
        suite: What the archive says it is: mmdebstrap looks for a suite's essential packages.

    Raises:
        CommandFailed: One of them is no package.
        LayerError: One of them is another than its name says.
    """
    files = [directory / file_name(artifact) for artifact in artifacts]
    argv = ["sh", "-c", _SHOW_ALL, "sh", *map(str, files)]
    shown = process.run(argv, timeout=300).stdout.decode(errors="replace") if files else ""
    paragraphs = [text for text in shown.split("\n\n") if text]
    if len(paragraphs) != len(files):
        raise LayerError("a package of the lock describes itself in several paragraphs")
    entries = []
    for artifact, file, paragraph in zip(artifacts, files, paragraphs, strict=True):
        found = fields(paragraph)
        if (found.get("Package"), found.get("Version")) != (artifact.name, artifact.version):
            raise LayerError(f"{file.name} is the package {found.get('Package')} {found.get('Version')}")
        entries.append(
            f"{paragraph}\nFilename: {artifact.path or file.name}\nSize: {file.stat().st_size}\n"
            f"SHA256: {artifact.sha256}\n"
        )
    index = "\n".join(entries).encode()
    (directory / "Packages").write_bytes(index)
    digest = hashlib.sha256(index).hexdigest()
    (directory / "Release").write_text(
        f"Origin: lock\nLabel: lock\nSuite: {suite}\nCodename: {suite}\n"
        "Date: Thu, 01 Jan 1970 00:00:00 UTC\n"
        f"SHA256:\n {digest} {len(index)} Packages\n"
    )


def source_line(directory: str) -> str:
    """Return apt's line for such an archive. It needs no signature: every digest in it is the lock's."""
    return f"deb [trusted=yes] copy:{directory} ./"


def preferences(artifacts: Iterable[Artifact]) -> str:
    """Return apt's preferences that keep packages at their locked versions, older ones too."""
    return "".join(
        f"Package: {artifact.name}\nPin: version {artifact.version}\nPin-Priority: 1001\n\n"
        for artifact in artifacts
    )


def installed(shown: str, kept: Mapping[str, str], downloads: Path) -> tuple[Artifact, ...]:
    """Return the packages of a tree from what `apt-cache show` says of them.

    Args:
        shown: Its output, of exactly the installed versions. Several archives may have one.
        kept: The SHA-256, in hexadecimal, of each file that apt had, by its name in apt's cache.
        downloads: Where those files are kept.

    Raises:
        LayerError: A kept file is another than every archive's of this version: apt looks at sizes only.
            It is not kept any longer.
    """
    found: dict[str, list[Artifact]] = {}
    for paragraph in shown.split("\n\n"):
        values = fields(paragraph)
        if all(values.get(name) for name in _FIELDS):
            name, version, architecture, path, digest = (values[each] for each in _FIELDS)
            artifact = Artifact(name, version, architecture, SHA256 + digest, path.removeprefix("./"))
            found.setdefault(file_name(artifact), []).append(artifact)
    chosen = []
    for file, artifacts in found.items():
        same = [each for each in artifacts if kept.get(file, each.sha256) == each.sha256]
        if not same:
            (downloads / f"{file}.{kept[file]}").unlink(missing_ok=True)
            raise LayerError(
                f"{file} was kept from an archive that has other bytes for it",
                hint="build again: it is not kept any longer",
                details=(f"expected SHA-256 {artifacts[0].sha256}", f"found SHA-256    {kept[file]}"),
            )
        chosen.append(same[0])
    return tuple(sorted(chosen))


def fields(paragraph: str) -> dict[str, str]:
    """Return the first lines of a paragraph's fields (deb-control(5))."""
    lines = (line.partition(":") for line in paragraph.splitlines() if not line.startswith((" ", "\t")))
    return {name: value.strip() for name, _, value in lines}


def _obtain(artifact: Artifact, archives: Sequence[str], workshop: Workshop, directory: Path) -> str | None:
    """Put a package into the directory; return why that cannot be."""
    if not _NAME.fullmatch(artifact.name) or "/" in file_name(artifact) or not artifact.sha256:
        return "is no package of Debian's"
    kept = workshop.downloads / f"{file_name(artifact)}.{artifact.sha256}"
    target = directory / file_name(artifact)
    with contextlib.suppress(FileNotFoundError):
        with kept.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
        if intact:
            os.link(kept, target)
            return None
        kept.unlink()
    reason = "no archive is known to have it"
    for archive in archives if _PATH.fullmatch(artifact.path) else ():
        try:
            download(
                f"{archive}/{artifact.path}",
                target,
                sha256=artifact.sha256,
                limit=LARGEST_PACKAGE,
                cancelled=workshop.cancelled,
            )
        except DownloadError as error:
            reason = error.message
            continue
        with contextlib.suppress(FileExistsError):
            os.link(target, kept)
        return None
    return reason
