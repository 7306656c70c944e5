"""The only place that starts programs.

Arguments are lists, never shell strings; standard input is closed unless given; the environment is
rebuilt from a short list, so that a user's locale, umask-like variables or secrets never reach a build
tool (and through it an image). A program runs in a process group of its own, which is killed on
timeout, on an exception and on Ctrl-C, and the kernel kills the program when the thread that started
it dies, so that `kill -9` of bouvet leaves nothing running.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from bouvet.errors import CommandFailed, ToolMissing

TAIL_LINES = 40
"""How many of a failed program's last lines an error carries."""

GRACE = 3.0
"""Seconds that a program has to end when it is asked to; then it is killed."""

PIPE_GRACE = 2.0
"""Seconds for which a program's pipes are read on after its end, while a process it left holds them."""

# Where the network's own settings live: needed by programs that download, useless to others.
_NETWORK_VARIABLES = (
    "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "APT_CONFIG",
)  # fmt: skip
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Line = Callable[[str], None]

_running: set[subprocess.Popen[bytes]] = set()
_running_lock = threading.Lock()
_refusing = False


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended as expected: its status and what it wrote (bytes, undecoded)."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float


def find_tool(name: str, *, package: str | None = None) -> str:
    """Return the absolute path of the program `name`.

    Debian keeps administrators' tools in `/usr/sbin`, which is not on an ordinary user's PATH: it is
    searched as well.

    Raises:
        ToolMissing: It is nowhere; the hint names the Debian `package` (default: `name`).
    """
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH)
    if path is None:
        raise ToolMissing(
            f"the program '{name}' is not installed",
            hint=f"apt-get install {package or name}",
        )
    return path


def clean_environment(extra: Mapping[str, str] | None = None, *, network: bool = False) -> dict[str, str]:
    """Return the environment that programs get: fixed locale and time zone, PATH, HOME, and `extra`.

    Args:
        extra: Variables to add or replace.
        network: Also pass the user's proxy and certificate settings on.
    """
    environment = {
        "PATH": os.environ.get("PATH", "") + ":" + _SYSTEM_PATH,
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    for name in ("TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        if name in os.environ:
            environment[name] = os.environ[name]
    if network:
        environment |= {name: os.environ[name] for name in _NETWORK_VARIABLES if name in os.environ}
    return environment | dict(extra or {})


def run(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: bytes | None = None,  # noqa: A002  (the standard library's name for it)
    ok: Sequence[int] = (0,),
    on_line: Line | None = None,
    hint: str | None = None,
) -> Completed:
    """Run a program to its end and return what it wrote.

    Args:
        argv: Program and arguments.
        timeout: Seconds after which its process group is killed; None waits for ever.
        env: Its whole environment; `clean_environment()` by default.
        cwd: Its working directory.
        input: What it reads on standard input; None closes it.
        ok: Exit statuses that are not errors.
        on_line: Called with each line, of both streams, as it comes.
        hint: What the user can do when it fails.

    Raises:
        ToolMissing: The program does not exist.
        CommandFailed: Another exit status, a signal, or the timeout.
    """
    started = time.monotonic()
    with start(argv, env=env, cwd=cwd, stdin=subprocess.PIPE if input else subprocess.DEVNULL) as child:
        stdout, stderr, late = _drain(child, input or b"", timeout, on_line)
        if late:
            raise _failure(argv, f"ran longer than {timeout:g} s", stdout, stderr, hint)
        status = child.wait()
    if status not in ok:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise _failure(argv, how, stdout, stderr, hint)
    return Completed(tuple(argv), status, stdout, stderr, time.monotonic() - started)


@contextlib.contextmanager
def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program and yield it; at the end of the block its whole process group is gone.

    Raises:
        ToolMissing: The program does not exist.
    """
    program = argv[0] if "/" in argv[0] else find_tool(argv[0])
    guard = [find_tool("setpriv", package="util-linux"), "--pdeathsig", "KILL"]
    if not os.access(program, os.X_OK):
        raise ToolMissing(f"the program '{program}' is not there or not executable")
    child = subprocess.Popen(
        [*guard, program, *argv[1:]],
        env=dict(env) if env is not None else clean_environment(),
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
        umask=0o022,
    )
    with _running_lock:
        _running.add(child)
    try:
        if _refusing:
            raise CommandFailed(
                f"{Path(program).name} was not started: the work it belongs to is being ended"
            )
        yield child
    finally:
        with _running_lock:
            _running.discard(child)
        stop(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def stop(child: subprocess.Popen[bytes], *, grace: float = GRACE) -> None:
    """End a program's process group: SIGTERM if it still runs, SIGKILL after `grace` seconds."""
    if child.poll() is None:
        _signal_group(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=grace)
    # The leader may be gone and its children not.
    _signal_group(child, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """End every running program, and start none during the block: other threads' work is being ended.

    A thread that waits for a program then sees it fail. What does not end of SIGTERM is killed after
    `GRACE` seconds.
    """
    global _refusing  # noqa: PLW0603  (one process, one answer)
    with _running_lock:
        _refusing = True
    kill = threading.Timer(GRACE, _signal_all, [signal.SIGKILL])
    try:
        _signal_all(signal.SIGTERM)
        kill.start()
        yield
    finally:
        kill.cancel()
        _refusing = False


def end_on_sigterm() -> None:
    """Let SIGTERM end this process even where it is the first of a process namespace.

    Such a process gets no signal that it has no handler for; all others of the namespace end with it.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(1)


def supervise(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    user: int,
    group: int,
    groups: Sequence[int] = (),
    interactive: bool = False,
) -> int:
    """Run a program as another user, and reap every other process, until the program ends.

    This is for the first process of a process namespace: what is left over belongs to it, and ends with it.
    The program gets this process's output streams.

    Args:
        argv: Program and arguments; the program is looked for on the PATH of `env`.
        env: Its whole environment.
        cwd: Its working directory.
        user: Its user id.
        group: Its group id.
        groups: Its further groups.
        interactive: Whether it shares standard input and the terminal; else its input is closed.

    Returns:
        Its exit status, or the negative number of the signal that ended it.

    Raises:
        OSError: It cannot be started.
    """
    child = subprocess.Popen(
        argv,
        env=dict(env),
        cwd=cwd,
        stdin=None if interactive else subprocess.DEVNULL,
        start_new_session=not interactive,
        user=user,
        group=group,
        extra_groups=groups,
        umask=0o022,
    )
    while True:
        ended, status = os.wait()
        if ended == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode


def run_on_terminal(argv: Sequence[str], *, env: Mapping[str, str]) -> int:
    """Run a program that shares this process's terminal, input and output; return its status.

    It is killed with this process. Ctrl-C is for it alone.

    Args:
        argv: Program, by its path, and arguments.
        env: Its whole environment.
    """
    guard = [find_tool("setpriv", package="util-linux"), "--pdeathsig", "KILL"]

    def leave_to_it(_number: int, _frame: FrameType | None) -> None:
        """A handler, not SIG_IGN, which the program would inherit."""

    before = signal.signal(signal.SIGINT, leave_to_it)
    try:
        with subprocess.Popen([*guard, *argv], env=dict(env)) as child:
            return child.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def pasteable(argv: Sequence[str]) -> str:
    """Return a command line that can be pasted into a shell."""
    return shlex.join(argv)


def _signal_all(number: signal.Signals) -> None:
    """Send a signal to every program that runs."""
    with _running_lock:
        for child in _running:
            # Its number may be another process's once it was waited for.
            if child.returncode is None:
                _signal_group(child, number)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


class _Capture:
    """What one pipe has delivered so far, passed on line by line to a listener as well."""

    def __init__(self, on_line: Line | None) -> None:
        self._on_line = on_line
        self._chunks: list[bytes] = []
        self._partial = b""

    def feed(self, piece: bytes) -> None:
        """Take the next piece; an empty one is the end."""
        self._chunks.append(piece)
        if self._on_line is None:
            return
        *lines, self._partial = (self._partial + piece).split(b"\n")
        if not piece and self._partial:
            lines = [self._partial]
        for line in lines:
            self._on_line(line.decode(errors="replace"))

    def bytes(self) -> bytes:
        """Return everything."""
        return b"".join(self._chunks)


def _drain(
    child: subprocess.Popen[bytes], pending: bytes, timeout: float | None, on_line: Line | None
) -> tuple[bytes, bytes, bool]:
    """Feed standard input and read both pipes until all are closed; say whether time ran out.

    A process that the program leaves behind may hold the pipes for ever: `PIPE_GRACE` after the
    program's end they are given up.
    """
    assert child.stdout is not None
    assert child.stderr is not None
    deadline = None if timeout is None else time.monotonic() + timeout
    stdout, stderr = _Capture(on_line), _Capture(on_line)
    view = memoryview(pending)
    with selectors.DefaultSelector() as selector, os.fdopen(os.pidfd_open(child.pid), "rb") as end:
        selector.register(end, selectors.EVENT_READ)
        selector.register(child.stdout, selectors.EVENT_READ, stdout)
        selector.register(child.stderr, selectors.EVENT_READ, stderr)
        if child.stdin is not None:
            selector.register(child.stdin, selectors.EVENT_WRITE)
        pipes, ended, over = len(selector.get_map()) - 1, False, False
        while pipes and not over:
            left = None if deadline is None else deadline - time.monotonic()
            over = left is not None and left <= 0
            for key, _ in selector.select(left) if not over else ():
                if key.fileobj is end:
                    ended = True
                    deadline = min(deadline or math.inf, time.monotonic() + PIPE_GRACE)
                    done = True
                elif key.fileobj is child.stdin:
                    view = _feed(key.fd, view)
                    done = not view
                else:
                    piece = os.read(key.fd, 1 << 16)
                    key.data.feed(piece)
                    done = not piece
                if done:
                    selector.unregister(key.fileobj)
                    pipes -= key.fileobj is not end
                    if key.fileobj is child.stdin:
                        child.stdin.close()
    return stdout.bytes(), stderr.bytes(), over and not ended


def _feed(descriptor: int, view: memoryview) -> memoryview:
    """Write a piece of the program's input; return what is left, nothing if it stopped reading."""
    try:
        return view[os.write(descriptor, view[: 1 << 16]) :]
    except BrokenPipeError:
        return memoryview(b"")


def _failure(argv: Sequence[str], how: str, stdout: bytes, stderr: bytes, hint: str | None) -> CommandFailed:
    text = (stderr or stdout).decode(errors="replace")
    tail = collections.deque(text.splitlines(), maxlen=TAIL_LINES)
    return CommandFailed(
        f"{Path(argv[0]).name} {how}", hint=hint, details=(f"command: {pasteable(argv)}", *tail)
    )
