"""The first process of a command's namespaces: `python -m bouvet.layers.enclosure SETTINGS`.

`bouvet.layers.commands` starts it with `unshare`, as root of a mount and a process namespace (and of a
user namespace, for an ordinary user). It mounts what the command sees, makes that the root, starts the
command and reaps what the command leaves behind, until the command ends; with it ends the namespace, with
every process and every mount.

What the command sees:

    /                overlayfs: the layers below, and a new directory above them that takes the changes
    /dev             null, zero, full, random, urandom, tty; pts, shm; nothing else
    /proc            of this process namespace; what would change the host is read-only
    /sys             read-only
    /run, /tmp       new and in memory: what is left there is not part of the layer
    /run/bouvet      files for the command, read-only
    caches           directories of the host

The command runs with the capabilities that package scripts need (`mounts.CAPABILITIES`), none of which
reaches beyond its own tree. Its programs may change their user (set-user-ID programs work), because a
script that starts as root often has to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import LayerError
from bouvet.formats.tree import MemorySource
from bouvet.layers import index, layout, mounts
from bouvet.layers.emulation import HANDLERS

ATTRIBUTES = "attributes.json"
BASE = "base"
FILES = "files"
OVERLAY = "overlay"
REPORT = "report.json"
SHOWN = "attributes"
STAGE = "stage"
UPPER = "overlay/upper"
WORK = "overlay/work"
"""What is in the scratch directory; see `Settings`."""

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_READ_ONLY = ("sys", "bus", "fs", "irq", "sysrq-trigger")
_HIDDEN = ("kcore", "keys", "sched_debug", "timer_list")
_SAFE = mounts.NO_SETUID | mounts.NO_DEVICES | mounts.NO_EXECUTION
_GIVEN_READ_ONLY = {"/run/bouvet", "/etc/resolv.conf"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the process is told, as JSON in a file.

    Attributes:
        scratch: A directory with `overlay/upper` and `overlay/work` for overlayfs, `base` with the mount
            points (it lies below all layers), `files` with what the command finds in `/run/bouvet`,
            `attributes.json` with directories that shall have other attributes than the layers give them,
            and empty `attributes` and `stage`. `report.json` will say how the command ended.
        lower: The layers' directories, lowest first.
        argv: The command.
        environment: Its whole environment.
        directory: Its working directory.
        uid: Its user id, and
        gid: its group id, and
        groups: its further groups.
        network: Whether it is in the host's network namespace, not in a new one.
        architecture: That of the layers' programs: what starts this process makes them run.
        caches: Directories of the host by the path at which they appear.
        interactive: Whether it reads the terminal, over what a failed command left.
    """

    scratch: str
    lower: list[str]
    argv: list[str]
    environment: dict[str, str]
    directory: str
    uid: int
    gid: int
    groups: list[int]
    network: bool
    architecture: str
    caches: dict[str, str]
    interactive: bool = False

    def write(self, path: Path) -> None:
        """Write them for the process to read."""
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_bytes()))


def main(path: str) -> None:
    """Set the namespaces up, run the command, and report how it ended."""
    process.end_on_sigterm()
    settings = Settings.read(Path(path))
    with Path(settings.scratch, REPORT).open("w") as report:
        try:
            with contextlib.ExitStack() as held:
                if settings.architecture != platform.machine():
                    # A user namespace's handlers of foreign programs go with their last mount.
                    _open_path(str(HANDLERS), held)
                with contextlib.ExitStack() as opened:
                    _mount_all(settings, opened)
                answer: dict[str, object] = {"status": _run(settings)}
        except LayerError as error:
            answer = {"error": error.message}
        except OSError as error:
            answer = {"error": f"{error.strerror}: {error.filename}"}
        json.dump(answer, report)


def _mount_all(settings: Settings, opened: contextlib.ExitStack) -> None:
    """Mount what the command sees, and make it the root."""
    _mount_overlay(settings)
    # What the host gives is opened before the host's tree is out of reach, and mounted after: only then
    # do the links of a hostile tree lead nowhere but into it.
    sources = {f"/dev/{name}": f"/dev/{name}" for name in _DEVICES} | settings.caches
    sources["/run/bouvet"] = str(Path(settings.scratch, FILES))
    if settings.network:
        sources["/etc/resolv.conf"] = "/etc/resolv.conf"
    given = {target: _open_path(source, opened) for target, source in sources.items()}
    host_sys = _open_path("/sys", opened)
    mounts.change_root("root")
    mounts.mount("proc", _directory("/proc"), flags=_SAFE)
    mounts.mount("tmpfs", _directory("/run"), options="mode=755")
    mounts.mount("tmpfs", _directory("/tmp"), options="mode=1777")  # noqa: S108  (where it is mounted)
    _mount_devices()
    _mount_sys(host_sys)
    for name in ("bouvet", "lock"):
        Path("/run", name).mkdir()
    for target, source in given.items():
        if appearing := _appearing(target):
            mounts.bind(source, appearing, flags=mounts.READ_ONLY if target in _GIVEN_READ_ONLY else 0)
    _restrict_proc()
    mounts.forget_old_root()


def _mount_overlay(settings: Settings) -> None:
    """Mount the layers at `root` in the stage, which becomes the working directory.

    The layers appear there under short names: the kernel takes a mount's options as one page of text.
    """
    scratch = Path(settings.scratch)
    shown = index.decode_tree(index.parse((scratch / ATTRIBUTES).read_bytes()), MemorySource(b""))
    layout.lay_out(shown, os.fsencode(scratch / SHOWN))
    if not settings.interactive:
        # The upper directory is the root that the command sees.
        layout.dress_directory(shown.get(b""), os.fsencode(scratch / UPPER))
    lower = [str(scratch / BASE), *settings.lower, str(scratch / SHOWN)]
    mounts.mount("tmpfs", str(scratch / STAGE))
    os.chdir(scratch / STAGE)
    for number, directory in enumerate(lower):
        Path(str(number)).mkdir()
        mounts.bind(directory, str(number))
    Path(OVERLAY).mkdir()
    mounts.bind(str(scratch / OVERLAY), OVERLAY)
    Path("root").mkdir()
    names = ":".join(str(number) for number in reversed(range(len(lower))))
    # `volatile`: nothing is worth waiting for the disk; after a crash of the host the tree is not used.
    options = f"lowerdir={names},upperdir={UPPER},workdir={WORK},userxattr,volatile,index=off"
    mounts.mount("overlay", "root", options=options)


def _open_path(path: str, opened: contextlib.ExitStack) -> str:
    """Return a name for a file of the host that lasts when the root has changed."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return f"/proc/self/fd/{descriptor}"


def _directory(place: str) -> str:
    """Return the place of a file system, which must be a directory and no link to one."""
    if Path(place).is_symlink() or not Path(place).is_dir():
        raise LayerError(f"{place} of the layers below is no directory")
    return place


def _mount_devices() -> None:
    mounts.mount(
        "tmpfs", _directory("/dev"), options="mode=755", flags=mounts.NO_SETUID | mounts.NO_EXECUTION
    )
    for name in _DEVICES:
        Path("/dev", name).touch()
    for name, target in _LINKS.items():
        Path("/dev", name).symlink_to(target)
    for name in ("pts", "shm"):
        Path("/dev", name).mkdir()
    mounts.mount(
        "devpts",
        "/dev/pts",
        options="newinstance,ptmxmode=0666,mode=620",
        flags=mounts.NO_SETUID | mounts.NO_EXECUTION,
    )
    mounts.mount("tmpfs", "/dev/shm", options="mode=1777", flags=_SAFE)  # noqa: S108  (where it is mounted)


def _mount_sys(host: str) -> None:
    try:
        mounts.mount("sysfs", _directory("/sys"), flags=_SAFE | mounts.READ_ONLY)
    except PermissionError:
        # Not in a user namespace that has the host's network: the host's own, as far as the user may.
        mounts.bind(host, "/sys", flags=_SAFE | mounts.READ_ONLY)


def _appearing(target: str) -> str | None:
    """Return where something of the host appears; None if a link there leads nowhere."""
    place = Path(os.path.realpath(target))
    if target == "/etc/resolv.conf" and not place.exists():
        # Usually a link to what a service of the guest writes below /run.
        if not place.is_relative_to("/run"):
            return None
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return str(place)


def _restrict_proc() -> None:
    for name in _READ_ONLY:
        if Path("/proc", name).exists():
            mounts.bind(f"/proc/{name}", f"/proc/{name}", flags=_SAFE | mounts.READ_ONLY)
    for name in _HIDDEN:
        if Path("/proc", name).exists():
            mounts.bind("/dev/null", f"/proc/{name}")


def _run(settings: Settings) -> int:
    """Run the command; return its status, or a negative signal number."""
    socket.sethostname("localhost")
    if not settings.network:
        mounts.start_loopback()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mounts.drop_capabilities()
    return process.supervise(
        settings.argv,
        env=settings.environment,
        cwd=Path(settings.directory),
        user=settings.uid,
        group=settings.gid,
        groups=settings.groups,
        interactive=settings.interactive,
    )


if __name__ == "__main__":
    main(sys.argv[1])
