"""The apt layer: packages that the tree's own apt adds and removes.

    /etc/apt/sources.list.d/NAME.sources    further archives (sources.list(5), deb822)
    /etc/apt/keyrings/NAME.{asc,gpg}        the keys that sign them

Lists of packages are kept between builds and read again when a package is not found, or after
`LISTS_SECONDS`. Packages are kept with their digests (`debian_archives`).
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.errors import CommandFailed, LayerError
from bouvet.layers import commands, debian_archives
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import FILES, Command
from bouvet.layers.deb822 import stanza
from bouvet.layers.mmdebstrap import find_cause

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import AptInputs, AptSourceInputs

LISTS_SECONDS = 24 * 3600.0
"""How long lists of packages are used without asking the archives for newer ones."""

_APT = b"usr/bin/apt-get"
_SOURCES = b"etc/apt/sources.list"
_SCRIPT = "packages"
_COMPLETE = "complete"
_ARMOR = b"-----BEGIN PGP"
# One user in the tree's namespace is enough: the whole of it is thrown away. What is not synced to the
# disk when the host fails is made again.
_OPTIONS = (
    "--quiet", "--yes", "--no-install-recommends",
    "-oAPT::Sandbox::User=root", "-oDpkg::Use-Pty=false", "-oDpkg::Options::=--force-unsafe-io",
    "-oDpkg::Options::=--force-confdef", "-oDpkg::Options::=--force-confold", "-oAcquire::Languages=none",
    "-oAPT::Keep-Downloaded-Packages=true", "-oDir::Cache::pkgcache=/var/lib/apt/lists/pkgcache.bin",
    "-oDir::Cache::srcpkgcache=/var/lib/apt/lists/srcpkgcache.bin",
)  # fmt: skip


def make(inputs: AptInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add and remove the packages.

    Raises:
        LayerError: There is no apt in the layers below, a package is unknown, or an archive cannot be read.
    """
    if _APT not in workshop.lower:
        raise LayerError("the layers below have no apt", hint="packages are added to Debian's trees only")
    assert workshop.below is not None
    staged = workshop.scratch / "archives"
    (staged / "partial").mkdir(parents=True)
    debian_archives.stage(workshop.downloads, staged)
    added = dict(_files(inputs, workshop))
    lists = workshop.below.cache(f"apt-lists-{_fingerprint(workshop.lower, added)}")
    settings = client_settings()
    given = {f"added-{index}": content for index, content in enumerate(added.values())}
    program = script(inputs, list(added), fresh=_is_fresh(lists)).encode()
    command = Command(
        argv=("/bin/sh", "-e", f"{FILES}/{_SCRIPT}"),
        network=True,
        environment=settings.environment,
        caches={"/var/cache/apt/archives": staged, "/var/lib/apt/lists": lists},
        files={**settings.files, **given, _SCRIPT: program},
    )
    workshop.progress("installing packages", None)
    try:
        commands.run_over_layers(command, workshop, layer)
    except CommandFailed as error:
        message, hint = find_cause(error.details) or (error.message, None)
        raise LayerError(
            f"the packages could not be added or removed: {message}",
            hint=error.hint or hint,
            details=error.details,
        ) from error
    debian_archives.collect(staged, workshop.downloads)


def script(inputs: AptInputs, added: Sequence[str], *, fresh: bool) -> str:
    """Return the shell script that runs in the tree.

    Args:
        inputs: What to add and to remove.
        added: Paths of files to put there first; their contents are `added-0` and so on.
        fresh: Whether the lists of packages are new enough to be tried first.
    """
    lines = [f'apt() {{ apt-get {shlex.join(_OPTIONS)} "$@"; }}']
    for index, path in enumerate(added):
        lines.append(f"install -D -m 644 {FILES}/added-{index} {shlex.quote(path)}")
    update = f"apt update --error-on=any && touch /var/lib/apt/lists/{_COMPLETE}"
    wanted = shlex.join([*inputs.add, *(f"{name}-" for name in inputs.remove)])
    install = f"apt install --purge {wanted}" if wanted else "true"
    lines.append(f"{install} || {{ {update} && {install}; }}" if fresh else f"{update}\n{install}")
    if inputs.remove:
        lines.append("apt autoremove --purge")
    return "\n".join(lines) + "\n"


def source_text(source: AptSourceInputs, key: str | None) -> str:
    """Return a source in apt's deb822 format.

    Args:
        source: The archive.
        key: Where its key is in the tree, None if it is trusted without.
    """
    fields = {
        "Types": "deb",
        "URIs": " ".join(source.uris),
        "Suites": " ".join(source.suites),
        "Components": " ".join(source.components),
        "Architectures": " ".join(source.architectures),
        "Signed-By": key or "",
        "Trusted": "" if key else "yes",
    }
    return stanza(fields)


def _files(inputs: AptInputs, workshop: Workshop) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of what configures the further archives."""
    for source in inputs.sources:
        path = None
        if source.key is not None:
            content = workshop.sources[source.key].entries[0].read()
            # apt tells the two forms apart by the name's ending.
            path = f"/etc/apt/keyrings/{source.name}.{'asc' if content.startswith(_ARMOR) else 'gpg'}"
            yield path, content
        yield f"/etc/apt/sources.list.d/{source.name}.sources", source_text(source, path).encode()


def _fingerprint(lower: FileTree, added: Mapping[str, bytes]) -> str:
    """Return a digest of the archives: lists of others would be removed by apt."""
    digest = hashlib.sha256()
    for path, inode in sorted(lower.items()):
        if path.startswith(_SOURCES) and inode.is_regular:
            digest.update(path + b"\0" + inode.content() + b"\0")
    for place, content in added.items():
        digest.update(place.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:16]


def _is_fresh(lists: Path) -> bool:
    try:
        return time.time() - (lists / _COMPLETE).stat().st_mtime < LISTS_SECONDS
    except OSError:
        return False
