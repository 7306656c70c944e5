"""Commands that run over the layers below, and whose changes become a layer.

A maker describes a `Command` and calls `run_over_layers`. The layers below are laid out as directories
(`unpacked`), mounted as one tree (`enclosure`), and what the command changes lands in a directory above
them, from which the layer is taken (`capturing`, `difference`). The command reaches nothing else: no
file, process or device of the host, no network unless it is given, and the layers below only to read.

It sees a fixed environment: a time of the packages (SOURCE_DATE_EPOCH), UTC, the C.UTF-8 locale, the host
name `localhost`. Python writes no compiled files on the side, whose content would depend on the time; what
is compiled on purpose is checked by hash then. No service is started: `policy-rc.d` refuses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bouvet import process
from bouvet.errors import CommandFailed, FormatError, LayerError
from bouvet.formats.tree import FileTree
from bouvet.layers import capturing, emulation, enclosure, index, namespaces
from bouvet.layers.difference import Difference
from bouvet.layers.enclosure import Settings
from bouvet.layers.logins import Login, find_login
from bouvet.layers.merge import filled_directories
from bouvet.layers.placing import newest_time

if TYPE_CHECKING:
    from bouvet.layers.maker import LowerLayers, Workshop
    from bouvet.layers.writer import LayerWriter

FILES = "/run/bouvet"
"""Where a command finds its files."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LONGEST_LINE = 1 << 16
_POLICY = b"usr/sbin/policy-rc.d"
_REFUSE = "#!/bin/sh\n# No service starts while an image is made.\nexit 101\n"
_SETTINGS = "settings.json"
_ENTERED = "entered.json"
_ERRORS = "errors"
_MOUNT_HINT = (
    "commands over layers need Linux 5.11 or newer with overlayfs, and a cache on ext4, XFS, Btrfs or "
    "tmpfs: set XDG_CACHE_HOME to such a disk"
)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run over the layers below.

    Attributes:
        argv: Program and arguments; the program is looked for on PATH.
        network: Whether it has the host's network; else it has a loopback interface of its own only.
        user: The name of the user that runs it, in the layers below.
        environment: Variables beside the fixed ones, which it may replace.
        directory: Its working directory.
        caches: Directories of the host by the absolute paths at which they appear; they are kept between
            builds and are no part of the layer.
        files: Contents of executable files in `FILES`, by name, for the time of the command.
        timeout: Seconds after which it is killed; None for ever.
    """

    argv: tuple[str, ...]
    network: bool = False
    user: str = "root"
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = "/"
    caches: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    timeout: float | None = None


def run_over_layers(command: Command, workshop: Workshop, layer: LayerWriter) -> None:
    """Run a command over the layers below, and add what it changed to the layer.

    Raises:
        CommandFailed: It ended with an error; its last lines are the details.
        LayerError: It cannot be started, or the host does not let the user run it, or programs of the
            layers' architecture.
        ToolMissing: The emulator of that architecture is not installed.
    """
    assert workshop.below is not None
    scratch = workshop.scratch / "command"
    newest = newest_time(workshop.lower)
    try:
        settings = _prepare(command, workshop, scratch, newest)
        with _kept(scratch, workshop.below):
            _run(command, _start_line(scratch / _SETTINGS, settings), scratch, workshop)
        _capture(scratch, Difference(workshop.lower, newest), layer)
    finally:
        namespaces.remove_tree(scratch)


def entering(scratch: Path, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs another command, on the terminal, where a failed one ran.

    Args:
        scratch: The failed command's directory, as `LowerLayers.keep_failed` returned it.
        argv: What to run; a shell if it is empty.

    Raises:
        LayerError: This is no such directory, or the layers below it are gone.
    """
    settings = _settings_of(scratch)
    if missing := tuple(path for path in settings.lower if not Path(path).is_dir()):
        raise LayerError(
            f"the layers below {scratch} are no longer in the cache",
            hint="build again with --keep-failed",
            details=missing,
        )
    # overlayfs wants to start with an empty one.
    for name in (enclosure.WORK, enclosure.SHOWN):
        namespaces.remove_tree(scratch / name)
        (scratch / name).mkdir()
    entered = dataclasses.replace(
        settings, scratch=str(scratch), argv=list(argv) or ["/bin/sh", "-i"], interactive=True
    )
    entered.write(scratch / _ENTERED)
    return _start_line(scratch / _ENTERED, entered)


def digests_below(scratch: Path) -> list[str]:
    """Return the digests of the layers below a failed command, lowest first.

    Raises:
        LayerError: This is not its directory.
    """
    return [Path(directory).parent.name for directory in _settings_of(scratch).lower]


def _settings_of(scratch: Path) -> Settings:
    try:
        return Settings.read(scratch / _SETTINGS)
    except (OSError, ValueError, TypeError) as error:
        raise LayerError(f"{scratch} is not the directory of a failed command: {error}") from error


def environment_of(command: Command, login: Login, newest: int) -> dict[str, str]:
    """Return the whole environment of a command.

    Args:
        command: The command.
        login: Who runs it.
        newest: The newest time below, in nanoseconds since 1970.
    """
    fixed = {
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": login.home,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": command.user,
        "PATH": _PATH,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(max(0, newest // 1_000_000_000)),
        "TZ": "UTC",
        "USER": command.user,
    }
    proxies = {}
    if command.network:
        known = process.clean_environment(network=True)
        proxies = {name: value for name, value in known.items() if name.lower().endswith("_proxy")}
    return fixed | proxies | dict(command.environment)


def _prepare(command: Command, workshop: Workshop, scratch: Path, newest: int) -> Settings:
    """Fill the scratch directory with what the enclosure needs; return what it is told."""
    assert workshop.below is not None
    login = find_login(workshop.lower, command.user)
    for name in (enclosure.UPPER, enclosure.WORK, enclosure.FILES, enclosure.SHOWN, enclosure.STAGE):
        (scratch / name).mkdir(parents=True)
    _make_mount_points(command, scratch / enclosure.BASE)
    for name, content in command.files.items():
        (scratch / enclosure.FILES / name).write_bytes(content)
        (scratch / enclosure.FILES / name).chmod(0o755)
    attributes = index.encode(undescribed_directories(workshop.below.trees, workshop.lower), 0, ())
    (scratch / enclosure.ATTRIBUTES).write_bytes(attributes)
    for directory in command.caches.values():
        directory.mkdir(exist_ok=True)
    workshop.progress("laying out the layers below", None)
    settings = Settings(
        scratch=str(scratch),
        lower=[str(directory) for directory in workshop.below.directories()],
        argv=list(command.argv),
        environment=environment_of(command, login, newest),
        directory=command.directory,
        uid=login.uid,
        gid=login.gid,
        groups=list(login.groups),
        network=command.network,
        architecture=workshop.below.architecture,
        caches={place: str(directory) for place, directory in command.caches.items()},
    )
    settings.write(scratch / _SETTINGS)
    return settings


def _make_mount_points(command: Command, base: Path) -> None:
    """Make the directory that lies below all layers: what is mounted needs a place, and leaves no trace."""
    for name in ("dev", "etc", "proc", "run", "sys", "tmp", *(place.strip("/") for place in command.caches)):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "etc/resolv.conf").touch()
    policy = base / os.fsdecode(_POLICY)
    policy.parent.mkdir(parents=True)
    policy.write_text(_REFUSE)
    policy.chmod(0o755)


def undescribed_directories(trees: Sequence[FileTree], merged: FileTree) -> FileTree:
    """Return the directories that some layer has something in without describing them itself.

    Laid out, each layer's directories hide those of the layers below, with their owner and mode: these
    must be shown again as the merged tree has them, with all above them.
    """
    found: FileTree = {}
    for tree in trees:
        for path in filled_directories(tree):
            if path not in tree and path in merged:
                found[path] = merged[path]
    for path in list(found):
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            if parent in merged:
                found[parent] = merged[parent]
    # The root is shown by the directory that takes the changes, whatever the layers say of it.
    if b"" in merged:
        found[b""] = merged[b""]
    return {path: inode for path, inode in found.items() if inode.is_directory}


def _run(command: Command, argv: Sequence[str], scratch: Path, workshop: Workshop) -> None:
    """Run the prepared command to its end."""
    tail: deque[str] = deque(maxlen=process.TAIL_LINES)
    environment = namespaces.python_environment()
    late = threading.Event()
    with process.start(argv, env=environment, cwd=scratch, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        with _watched(child, command.timeout, late):
            for line in _lines(child.stdout):
                tail.append(line)
                workshop.output(line)
            status = child.wait()
    shown = ("command: " + process.pasteable(command.argv), *tail)
    if late.is_set():
        raise CommandFailed(f"the command ran longer than {command.timeout:g} s", details=shown)
    report = _report(scratch / enclosure.REPORT)
    if report is None:
        raise CommandFailed(f"the command was killed (status {status})", details=shown)
    if "error" in report:
        hint = _MOUNT_HINT if str(report["error"]).endswith("overlay at root") else None
        raise LayerError(f"the command could not be started: {report['error']}", hint=hint, details=shown)
    code = int(report["status"])
    if code:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise CommandFailed(f"the command {how}", details=shown)


def _start_line(path: Path, settings: Settings) -> list[str]:
    """Return the command line that does what the settings in a file say."""
    further = ("--ipc", "--uts") if settings.network else ("--ipc", "--uts", "--net")
    entered = emulation.enter_emulation(namespaces.enter_namespaces(*further), settings.architecture)
    return [*entered, *namespaces.python(enclosure.__name__), str(path)]


@contextlib.contextmanager
def _watched(child: subprocess.Popen[bytes], timeout: float | None, late: threading.Event) -> Iterator[None]:
    """End a program when its time is up, and say so."""

    def end() -> None:
        late.set()
        process.stop(child)

    if timeout is None:
        yield
        return
    timer = threading.Timer(timeout, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a program's output, long ones in pieces."""
    while piece := stream.readline(_LONGEST_LINE):
        yield piece.decode(errors="replace").rstrip("\r\n")


def _report(path: Path) -> dict[str, Any] | None:
    """Return what the enclosure said of the command's end; None if it could not say anything."""
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return report


@contextlib.contextmanager
def _kept(scratch: Path, below: LowerLayers) -> Iterator[None]:
    """Keep what a command left when it fails, if that is asked for, and say how to enter it."""
    try:
        yield
    except CommandFailed as error:
        if below.keep_failed is not None:
            place = below.keep_failed(scratch)
            error.hint = f"look around with: bouvet enter {shlex.quote(str(place))}"
        raise


def _capture(scratch: Path, difference: Difference, layer: LayerWriter) -> None:
    """Add the upper directory to the layer."""
    argv = [*namespaces.enter_namespaces(), *namespaces.python(capturing.__name__)]
    argv.append(str(scratch / enclosure.UPPER))
    # A file for what goes wrong: nobody reads a second pipe while the tar is read.
    with (
        (scratch / _ERRORS).open("w+b") as errors,
        process.start(argv, env=namespaces.python_environment(), cwd=scratch, stderr=errors) as child,
    ):
        assert child.stdout is not None
        problem: FormatError | None = None
        try:
            layer.add_tar(child.stdout, difference.keep)
        except FormatError as error:
            problem = error
        while child.stdout.read(1 << 16):
            pass
        status = child.wait()
        if status or problem is not None:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").splitlines()
            raise LayerError(
                f"what the command changed could not be read: {problem or f'status {status}'}",
                details=tuple(lines[-process.TAIL_LINES :]),
            )
    difference.settle(layer)
