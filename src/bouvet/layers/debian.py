"""The Debian layer: packages installed by mmdebstrap, with a hook of ours, into a tree.

    bootstrapping    the process in the namespaces: makes room for the tree, writes it as a layer
      mmdebstrap       configures apt, updates its lists, cleans up
        installing       its hook: apt chooses, packages are decompressed ahead, dpkg installs

mmdebstrap runs in its `root` mode inside `namespaces` of its own, so that root and an ordinary user get
the same bytes. Its own `unshare` mode is not used: its root is a subordinate id too, which cannot enter a
home directory, and its processes outlive a killed bouvet.

The environment holds no SOURCE_DATE_EPOCH: Python's compiled files would change their kind, and those
of mmdebstrap's clamped sources would look stale. `debian_tree` settles times instead.
"""

from __future__ import annotations

import functools
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet import process
from bouvet.layers import (
    apt_archive,
    bootstrapping,
    debian_archives,
    emulation,
    installing,
    locked_debs,
    mmdebstrap,
    namespaces,
    pins,
)
from bouvet.layers.memory import available
from bouvet.plan.provenance import Locked, Provenance

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import ArchiveInputs, DebianInputs

DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's name of each architecture."""

LEAST_MEMORY = 2 << 30
"""Bytes of memory that a tree gets, or else none: it is on the disk then."""

_SHARE = 0.5
"""The part of the available memory that a tree may take."""

_PREFERENCES = '"$1"/etc/apt/preferences.d/merged-usr'
_PINNED = '"$1"/etc/apt/sources.list.d/lock.list'
_PINS = '"$1"/etc/apt/preferences.d/lock'
_SOURCES = '"$1"/etc/apt/sources.list'
_SHOW = (
    "dpkg-query --admindir=\"$1\"/var/lib/dpkg --show --showformat='${{binary:Package}}=${{Version}}\\n' | "
    'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" xargs apt-cache show >{}'
)
"""apt's records of all that is installed."""

APT_SETTINGS = """\
// The image is slim: what is installed later is what was asked for and what it depends on.
APT::Install-Recommends "false";
// Translated package descriptions are most of what an update would download.
Acquire::Languages "none";
"""


def make(inputs: DebianInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Install the packages and write the resulting tree into the layer.

    Raises:
        LayerError: The host cannot run it, a package is unknown, or the mirror cannot be read.
        LockError: A locked package cannot be had, or the lock is not all that is needed.
        DownloadError: The key of an archive cannot be downloaded.
        ToolMissing: mmdebstrap or a tool it needs is not installed.
    """
    entered = emulation.enter_emulation(namespaces.enter_namespaces(), inputs.architecture)
    directories = Directories(workshop.scratch)
    added = [line for archive in inputs.archives for line in apt_archive.hooks(archive, workshop)]
    if inputs.locked is not None:
        _stage_locked(inputs, inputs.locked, workshop, directories)
    if inputs.locked is None or not inputs.locked.complete:
        kept = debian_archives.stage(workshop.downloads, directories.staged)
        workshop.progress(f"{kept} packages are already here" if kept else "downloading everything", 0.0)
    directories.write_installation(inputs, workshop.downloads)
    argv = command(inputs, directories.write_settings(inputs), directories, added)
    try:
        memory = int(available() * _SHARE)
        if memory < LEAST_MEMORY or not _bootstrap(entered, argv, directories, workshop, memory):
            directories.clear()
            _bootstrap(entered, argv, directories, workshop, 0)
    finally:
        namespaces.remove_tree(directories.tree)
    layer.take(directories.output)
    layer.provenance = _provenance(inputs, workshop, directories)


def _bootstrap(
    entered: Sequence[str], argv: Sequence[str], directories: Directories, workshop: Workshop, memory: int
) -> bool:
    """Make the tree and its layer; return whether the memory was enough.

    Args:
        entered: The start of a command line that enters namespaces.
        argv: mmdebstrap's command line.
        directories: Where the build takes place.
        workshop: Is told of the progress.
        memory: How many bytes of memory the tree may take, 0 if it is made on the disk.
    """
    environment = build_environment(workshop.scratch)
    directories.write_bootstrapping(argv, environment, memory)
    line = [*entered, *namespaces.python(bootstrapping.__name__), str(directories.bootstrapping)]
    environment |= {"PYTHONPATH": namespaces.python_environment()["PYTHONPATH"]}
    with process.start(line, env=environment, cwd=workshop.scratch, stdout=subprocess.DEVNULL) as child:
        assert child.stderr is not None
        log = mmdebstrap.Log(child.stderr, workshop.progress, workshop.output)
        log.join()
        if not (status := child.wait()):
            return True
    if memory and mmdebstrap.is_full(log.tail):
        return False
    raise mmdebstrap.failure(argv, status, log.tail)


def _stage_locked(inputs: DebianInputs, locked: Locked, workshop: Workshop, directories: Directories) -> None:
    """Get the locked packages, and index them for apt."""
    archives = [*sources(inputs), *(archive_line(each) for each in inputs.archives), *locked.sources]
    if inputs.snapshot is not None:
        archives += locked_debs.mirror_lines(inputs.snapshot, inputs.suite)
    addresses = locked_debs.addresses(archives)
    locked_debs.obtain(locked.artifacts, addresses, workshop, directories.staged)
    locked_debs.write_archive(locked.artifacts, directories.staged, inputs.suite)
    own = {archive_line(archive) for archive in inputs.archives}
    lines = [line for line in locked.sources if line not in own]
    directories.sources.write_text("".join(f"{line}\n" for line in lines))
    directories.preferences.write_text(locked_debs.preferences(locked.artifacts))


def _provenance(inputs: DebianInputs, workshop: Workshop, directories: Directories) -> Provenance:
    """Return what was installed, and check it against the lock; keep the packages."""
    locked = inputs.locked
    kept = debian_archives.collect(directories.fetched, workshop.downloads, replacing=locked is None)
    artifacts = locked_debs.installed(directories.shown.read_text(errors="replace"), kept, workshop.downloads)
    pins.check(artifacts, locked)
    lines = [line.strip() for line in directories.sources.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    lines += [archive_line(archive) for archive in inputs.archives]
    return Provenance(artifacts, tuple(lines), host_tools())


def archive_line(archive: ArchiveInputs) -> str:
    """Return an archive in apt's one-line format, without its key."""
    return f"deb {archive.url} {archive.suite} {archive.component}"


@functools.cache
def host_tools() -> tuple[tuple[str, str], ...]:
    """Return names and versions of the host's programs that install Debian's packages."""
    found = []
    for name, package in (("apt-get", "apt"), ("mmdebstrap", "mmdebstrap")):
        printed = process.run([process.find_tool(name, package=package), "--version"], timeout=60)
        words = printed.stdout.decode(errors="replace").split()
        found.append((package, words[1] if len(words) > 1 else ""))
    return tuple(found)


class Directories:
    """The build's directories in its scratch space.

    Attributes:
        staged: Packages of earlier builds, for apt.
        fetched: All packages of this build, from apt.
        tree: Where mmdebstrap makes its tree.
        shown: What apt says of all that was installed: a file.
        sources: The tree's list of archives, a file: a lock's, or else mmdebstrap's.
        preferences: A lock's preferences for apt, a file.
        output: Where its layer is written.
        bootstrapping: The file with the settings of `bootstrapping`.
        installing: The file with the settings of `installing`.
    """

    def __init__(self, scratch: Path) -> None:
        self.staged = scratch / "staged"
        self.fetched = scratch / "fetched"
        self.tree = scratch / "tree"
        self.shown = scratch / "shown"
        self.sources = scratch / "sources"
        self.preferences = scratch / "preferences"
        self.output = scratch / "output"
        self.bootstrapping = scratch / "bootstrapping.json"
        self.installing = scratch / "installing.json"
        self._scratch = scratch
        self._work = scratch / "work"
        for directory in (self.staged, self.fetched, self.tree, self.output, self._work):
            directory.mkdir()

    def clear(self) -> None:
        """Remove what a build left that did not come to its end, so that another can begin."""
        for directory in (self.output, self._work):
            namespaces.remove_tree(directory)
            directory.mkdir()
        # In their place are links that lead somewhere in that build's tree only.
        for deb in self.fetched.iterdir():
            (self.staged / deb.name).unlink(missing_ok=True)
            (self.staged / deb.name).hardlink_to(deb)

    def write_installation(self, inputs: DebianInputs, downloads: Path) -> None:
        """Write what the hook is told that installs the packages."""
        settings = installing.Settings(
            suite=inputs.suite,
            architecture=DEBIAN_ARCHITECTURES[inputs.architecture],
            packages=list(inputs.packages),
            exclude=list(inputs.exclude),
            include=list(inputs.include),
            staged=str(self.staged),
            fetched=str(self.fetched),
            kept=str(debian_archives.plain(downloads)),
            scratch=str(self._work),
        )
        settings.write(self.installing)

    def write_bootstrapping(self, argv: Sequence[str], environment: dict[str, str], memory: int) -> None:
        """Write what the process is told that runs mmdebstrap."""
        settings = bootstrapping.Settings(list(argv), environment, str(self.tree), memory, str(self.output))
        settings.write(self.bootstrapping)

    def write_settings(self, inputs: DebianInputs) -> tuple[Path, Path]:
        """Write the settings that the guest keeps; return the files for apt and for dpkg."""
        apt, dpkg = self._scratch / "apt", self._scratch / "dpkg"
        apt.write_text(APT_SETTINGS)
        dpkg.write_text(dpkg_settings(inputs.exclude, inputs.include))
        return apt, dpkg


def dpkg_settings(exclude: Iterable[str], include: Iterable[str]) -> str:
    """Return dpkg's configuration file for the paths that no package may bring, now and later."""
    lines = ["# Paths that are left out of every package, also of those installed later."]
    lines += [f"path-exclude={pattern}" for pattern in exclude]
    lines += [f"path-include={pattern}" for pattern in include]
    return "\n".join(lines) + "\n"


def sources(inputs: DebianInputs) -> list[str]:
    """Return mmdebstrap's MIRROR arguments: none for its own default, which has security and updates.

    A mirror is given as the URL of its `debian` directory, or of a time below it on a snapshot's server;
    Debian's layout has the security archive beside it, in `debian-security`. Where that is not so, the
    mirror is given as whole lines of apt's one-line format, separated by newlines.

    Raises:
        LayerError: The URL says nothing about where the security archive is.
    """
    return [] if inputs.mirror is None else locked_debs.mirror_lines(inputs.mirror, inputs.suite)


def command(
    inputs: DebianInputs, settings: tuple[Path, Path], directories: Directories, added: Iterable[str] = ()
) -> list[str]:
    """Return mmdebstrap's command line.

    It prepares apt, updates its lists, and cleans up. All packages are installed by a hook: to
    mmdebstrap it is a tree of no packages.

    Args:
        inputs: What the tree holds.
        settings: The files for apt and for dpkg.
        directories: Where the build takes place.
        added: Further setup hooks.
    """
    apt, dpkg = settings
    locked = inputs.locked
    # Nothing but the lock's own archive is there while packages are chosen.
    alone = locked is not None and locked.complete
    setup = (
        # An ordinary user gets device nodes only where there is a directory for them.
        'mkdir --parents "$1"/dev',
        *_merge_usr(inputs.architecture),
        *(() if alone else added),
        *(() if locked is None or alone else _pin(directories)),
    )
    python_path = shlex.quote(namespaces.python_environment()["PYTHONPATH"])
    hook = process.pasteable([*namespaces.python(installing.__name__), str(directories.installing)])
    customize = (
        _SHOW.format(shlex.quote(str(directories.shown))),
        *(() if locked is None or alone else (f"rm {_PINNED} {_PINS}",)),
        *((*added, f"cat {shlex.quote(str(directories.sources))} >{_SOURCES}") if alone else ()),
        f"cat {_SOURCES} >{shlex.quote(str(directories.sources))}",
        f"rm {_PREFERENCES}",
        'mv "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/apt.conf.d/90slim',
        'mv "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/90slim',
        # The day an account was made differs between builds; without it, passwords do not expire.
        r"""sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1::/' "$1"/etc/shadow""",
    )
    return [
        process.find_tool("mmdebstrap"),
        "--mode=root",
        "--variant=custom",
        "--format=directory",
        "--verbose",
        f"--architectures={DEBIAN_ARCHITECTURES[inputs.architecture]}",
        # Whether foreign programs run is known already. There is no place for these mounts before the
        # hook has made it. What apt's cleaning would remove is no part of the layer (`debian_tree`).
        "--skip=check/qemu,chroot/mount/proc,chroot/mount/sys,cleanup/apt",
        f"--aptopt={apt}",
        f"--dpkgopt={dpkg}",
        *(f"--setup-hook={line}" for line in setup),
        f'--extract-hook=PYTHONPATH={python_path} {hook} "$1"',
        *(f"--customize-hook={line}" for line in customize),
        inputs.suite,
        str(directories.tree),
        *([locked_debs.source_line(str(directories.staged))] if alone else sources(inputs)),
    ]


def _pin(directories: Directories) -> tuple[str, ...]:
    """Return commands that let apt find the locked packages, and prefer them."""
    line = shlex.quote(locked_debs.source_line(str(directories.staged)))
    return (
        f"echo {line} >{_PINNED}",
        f"install -D --mode=644 {shlex.quote(str(directories.preferences))} {_PINS}",
    )


def _merge_usr(architecture: str) -> tuple[str, ...]:
    """Return commands that make `/bin` and its like links into `/usr` from the start.

    The package `usrmerge` would do it afterwards, and bring all of Perl for that; held back, apt takes
    the alternative that only checks it.
    """
    names = "bin lib lib64 sbin" if architecture == "x86_64" else "bin lib sbin"
    return (
        f'for name in {names}; do mkdir -p "$1/usr/$name" && ln -s "usr/$name" "$1/$name"; done',
        f"printf 'Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n' > {_PREFERENCES}",
    )


def build_environment(temporary: Path) -> dict[str, str]:
    """Return what mmdebstrap and the packages' scripts see: nothing of the user but the network settings.

    apt's own configuration file is left out as well: mmdebstrap has one, and two would be half in force.
    """
    fixed = {
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": str(temporary),
    }
    environment = process.clean_environment(fixed, network=True)
    for name in ("APT_CONFIG", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        environment.pop(name, None)
    return environment
