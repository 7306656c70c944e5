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
from bouvet.layers import commands, debian_archives, locked_debs
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import FILES, Command
from bouvet.layers.deb822 import stanza
from bouvet.layers.left_files import read_left
from bouvet.layers.mmdebstrap import find_cause
from bouvet.layers.pins import check
from bouvet.plan.provenance import Artifact, Provenance

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree, Inode
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import AptInputs, AptSourceInputs
    from bouvet.plan.provenance import Locked

_SHOWN = "shown"
_STATUS = b"var/lib/dpkg/status"
_LIST = "/etc/apt/sources.list.d/lock.list"
_PINS = "/etc/apt/preferences.d/lock"
# With a lock, lists are read anew: those that are kept are of other archives.
_LOCKED = (
    "-oDir::State::lists=/tmp/lists", "-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=",
)  # fmt: skip
_LOCK_ALONE = (f"-oDir::Etc::sourcelist={_LIST}", "-oDir::Etc::sourceparts=/dev/null")

LISTS_SECONDS = 24 * 3600.0
"""How long lists of packages are used without asking the archives for newer ones."""

_APT = b"usr/bin/apt-get"
_SOURCES = b"etc/apt/sources.list"
_SCRIPT = "packages"
_COMPLETE = "complete"
_ARMOR = b"-----BEGIN PGP"
# One user in the tree's namespace is enough: the whole of it is thrown away. What is not synced to the
# disk when the host fails is made again.
_OPTIONS = ("--quiet", "--yes", "--no-install-recommends")
_SETTINGS = (
    "-oAPT::Sandbox::User=root", "-oDpkg::Use-Pty=false", "-oDpkg::Options::=--force-unsafe-io",
    "-oDpkg::Options::=--force-confdef", "-oDpkg::Options::=--force-confold", "-oAcquire::Languages=none",
    "-oAPT::Keep-Downloaded-Packages=true", "-oDir::Cache::pkgcache=/var/lib/apt/lists/pkgcache.bin",
    "-oDir::Cache::srcpkgcache=/var/lib/apt/lists/srcpkgcache.bin",
)  # fmt: skip


def make(inputs: AptInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add and remove the packages.

    Raises:
        LayerError: There is no apt in the layers below, a package is unknown, or an archive cannot be read.
        LockError: A locked package cannot be had, or the lock is not all that is needed.
    """
    if _APT not in workshop.lower:
        raise LayerError("the layers below have no apt", hint="packages are added to Debian's trees only")
    assert workshop.below is not None
    staged = workshop.scratch / "archives"
    (staged / "partial").mkdir(parents=True)
    lines = source_lines(workshop.lower, inputs)
    if inputs.locked is not None:
        _stage_locked(inputs, inputs.locked, lines, workshop, staged)
    if inputs.locked is None or not inputs.locked.complete:
        debian_archives.stage(workshop.downloads, staged)
    added = dict(_files(inputs, workshop))
    lists = workshop.below.cache(f"apt-lists-{_fingerprint(workshop.lower, added)}")
    settings = client_settings()
    given = {f"added-{index}": content for index, content in enumerate(added.values())}
    if inputs.locked is not None:
        given["lock.list"] = (locked_debs.source_line("/var/cache/apt/archives") + "\n").encode()
        given["lock.pins"] = locked_debs.preferences(inputs.locked.artifacts).encode()
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
    kept = debian_archives.collect(staged, workshop.downloads, replacing=inputs.locked is None)
    shown = read_left(staged / _SHOWN).decode(errors="replace")
    before, after = (_installed(tree.get(_STATUS)) for tree in (workshop.lower, layer.tree))
    new = after - before
    # The other files, and the packages below, say nothing of each other.
    names = {debian_archives.file_name(Artifact(name, version, machine)) for name, version, machine in new}
    had = {name: digest for name, digest in kept.items() if name in names}
    found = locked_debs.installed(shown, had, workshop.downloads)
    artifacts = tuple(each for each in found if (each.name, each.version, each.architecture) in new)
    check(artifacts, inputs.locked)
    layer.provenance = Provenance(artifacts, lines)


def script(inputs: AptInputs, added: Sequence[str], *, fresh: bool) -> str:
    """Return the shell script that runs in the tree.

    Args:
        inputs: What to add and to remove.
        added: Paths of files to put there first; their contents are `added-0` and so on.
        fresh: Whether the lists of packages are new enough to be tried first.
    """
    locked = inputs.locked
    settings = [*_SETTINGS, *(() if locked is None else _LOCKED), *_alone(locked)]
    options = shlex.join([*_OPTIONS, *settings])
    lines = [f'apt() {{ apt-get {options} "$@"; }}']
    for index, path in enumerate(added):
        lines.append(f"install -D -m 644 {FILES}/added-{index} {shlex.quote(path)}")
    update = f"apt update --error-on=any && touch /var/lib/apt/lists/{_COMPLETE}"
    wanted = shlex.join([*inputs.add, *(f"{name}-" for name in inputs.remove)])
    install = f"apt install --purge {wanted}" if wanted else "true"
    if locked is not None:
        lines.append(f"mkdir -p /tmp/lists/partial && install -D -m 644 {FILES}/lock.list {_LIST}")
        if not locked.complete:
            lines.append(f"install -D -m 644 {FILES}/lock.pins {_PINS}")
        lines += ["apt update --error-on=any", install]
    else:
        lines.append(f"{install} || {{ {update} && {install}; }}" if fresh else f"{update}\n{install}")
    if inputs.remove:
        lines.append("apt autoremove --purge")
    lines.append(
        "dpkg-query --show --showformat='${binary:Package}=${Version}\\n' | "
        f"xargs apt-cache {shlex.join(settings)} show >/var/cache/apt/archives/{_SHOWN}"
    )
    if locked is not None:
        lines.append(f"rm -f {_LIST} {_PINS}")
    return "\n".join(lines) + "\n"


def source_lines(lower: FileTree, inputs: AptInputs) -> tuple[str, ...]:
    """Return the archives of the layers below and of the step in apt's one-line format, without keys."""
    found: list[str] = []
    for path, inode in sorted(lower.items()):
        if not path.startswith(_SOURCES) or not inode.is_regular:
            continue
        text = inode.content().decode(errors="replace")
        if path.endswith(b".sources"):
            for paragraph in text.split("\n\n"):
                found += _deb822_lines(locked_debs.fields(paragraph))
        else:
            found += [line.strip() for line in text.splitlines() if line.strip().startswith("deb ")]
    for source in inputs.sources:
        suites = (source.suites, source.components)
        found += [" ".join(("deb", uri, suite, *suites[1])) for uri in source.uris for suite in suites[0]]
    return tuple(dict.fromkeys(found))


def _deb822_lines(fields: Mapping[str, str]) -> Iterator[str]:
    for uri in fields.get("URIs", "").split():
        for suite in fields.get("Suites", "").split():
            yield " ".join(("deb", uri, suite, *fields.get("Components", "").split()))


def _stage_locked(
    inputs: AptInputs, locked: Locked, lines: Sequence[str], workshop: Workshop, staged: Path
) -> None:
    """Get the locked packages, and index them for apt."""
    archives = [*lines, *locked.sources]
    if inputs.snapshot is not None:
        archives += locked_debs.mirror_lines(inputs.snapshot, "stable")
    locked_debs.obtain(locked.artifacts, locked_debs.addresses(archives), workshop, staged)
    locked_debs.write_archive(locked.artifacts, staged, "lock")


def _alone(locked: Locked | None) -> tuple[str, ...]:
    """Return apt's options that let it see the lock's archive and no other."""
    return _LOCK_ALONE if locked is not None and locked.complete else ()


def _installed(status: Inode | None) -> set[tuple[str, str, str]]:
    """Return name, version and architecture of what dpkg's status says is installed."""
    text = "" if status is None else status.content().decode(errors="replace")
    found = map(locked_debs.fields, text.split("\n\n"))
    return {
        (each["Package"], each.get("Version", ""), each.get("Architecture", ""))
        for each in found
        if each.get("Status", "").endswith(" installed") and "Package" in each
    }


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
