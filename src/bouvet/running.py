"""Runs a command in a sandbox as if it ran here: on the caller's terminal, or the caller's streams."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from bouvet.errors import AgentError
from bouvet.protocol import Ending, Exit, Gap, Output
from bouvet.sandbox import ProcessOptions, RemoteProcess, Sandbox, TerminalSize
from bouvet.sandbox.archive import write_all
from bouvet.vm.terminal import raw_terminal

__all__ = ["COLLECTED_LIMIT", "Collected", "Streams", "collect", "run_attached", "terminal_size"]

GRACE_SECONDS = 2.0
"""How long a command may go on after it was interrupted, before it is killed."""

COLLECTED_LIMIT = 16 << 20
"""Bytes of each stream that are kept where output is collected."""

_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class Streams:
    """Descriptors that a command's streams are connected with.

    Attributes:
        stdin: What it reads; None for nothing.
        stdout: Where its standard output goes, or its terminal's.
        stderr: Where its standard error goes.
    """

    stdin: int | None
    stdout: int
    stderr: int


@dataclass(slots=True)
class Collected:
    """The output of a command, as far as it is kept.

    Attributes:
        stdout: Its standard output, or its terminal's.
        stderr: Its standard error.
        truncated: Whether there was more.
    """

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    truncated: bool = False

    def take(self, stream: str, data: bytes) -> None:
        """Keep a piece of output, up to the limit."""
        kept = self.stderr if stream == "stderr" else self.stdout
        room = COLLECTED_LIMIT - len(kept)
        kept += data[:room]
        self.truncated = self.truncated or len(data) > room


def run_attached(
    sandbox: Sandbox, command: str | Sequence[str], options: ProcessOptions, streams: Streams
) -> Ending:
    """Run a command with its streams connected to descriptors of this process.

    With a terminal in the options, and one at `streams.stdin`, that one is raw meanwhile: every key goes to
    the command, and so do changes of its size. An interruption (`KeyboardInterrupt`, whose first argument
    may be a signal's name) is passed on as a signal to the command and all that it has started; what is left
    of them after 2 seconds is killed. Has to be called by the main thread.

    Raises:
        KeyboardInterrupt: It was interrupted once more.
        RequestRefused: The command cannot be started.
        MachineError: The machine has ended.
        AgentError: Output was lost, or the agent.
        BrokenPipeError: Nobody reads the output.
    """

    def take(stream: str, data: bytes) -> None:
        write_all(streams.stderr if stream == "stderr" else streams.stdout, data)

    return _run(sandbox, command, options, streams.stdin, take)


def collect(
    sandbox: Sandbox, command: str | Sequence[str], options: ProcessOptions, stdin: int | None
) -> tuple[Ending, Collected]:
    """Run a command and keep its output, 16 MiB of each stream; otherwise as `run_attached`."""
    collected = Collected()
    return _run(sandbox, command, options, stdin, collected.take), collected


def terminal_size(descriptor: int) -> TerminalSize:
    """Return a terminal's size; 24 rows of 80 columns for what is none, or does not know."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        columns, rows = 0, 0
    return TerminalSize(rows, columns) if rows and columns else TerminalSize(24, 80)


def _run(
    sandbox: Sandbox,
    command: str | Sequence[str],
    options: ProcessOptions,
    stdin: int | None,
    take: Callable[[str, bytes], None],
) -> Ending:
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(sandbox.start(command, options))
        if stdin is not None:
            if options.terminal is not None:
                stack.enter_context(raw_terminal(stdin))
            stack.enter_context(_input(process, stdin, is_terminal=options.terminal is not None))
        try:
            ending = _take_output(process, take, None)
        except KeyboardInterrupt as interruption:
            ending = _interrupt(process, take, interruption)
        if ending is None:
            raise KeyboardInterrupt
        return ending


def _take_output(
    process: RemoteProcess, take: Callable[[str, bytes], None], seconds: float | None
) -> Ending | None:
    """Hand out a process's output until its end; None if it has not ended after some seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return None
        event = process.next_event(timeout=left)
        match event:
            case Output(stream, _, data):
                take(stream, data)
            case Gap(stream, offset, length):
                raise AgentError(f"{length} bytes of the command's {stream} are lost, from byte {offset} on")
            case Exit(ending, _):
                return ending


def _interrupt(
    process: RemoteProcess, take: Callable[[str, bytes], None], interruption: KeyboardInterrupt
) -> Ending | None:
    """Pass an interruption on, and take what the command still has to say."""
    name = str(interruption.args[0]) if interruption.args else signal.Signals.SIGINT.name
    # It may have ended by itself meanwhile; then its end is on the way.
    with contextlib.suppress(AgentError):
        process.signal(name, everything=True, timeout=GRACE_SECONDS)
    ending = _take_output(process, take, GRACE_SECONDS)
    if ending is None:
        process.kill(timeout=GRACE_SECONDS)
        ending = _take_output(process, take, GRACE_SECONDS)
    return ending


@contextlib.contextmanager
def _input(process: RemoteProcess, descriptor: int, *, is_terminal: bool) -> Iterator[None]:
    """Pass on what a descriptor has to read, and a terminal's changes of size, from another thread."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    thread = threading.Thread(
        target=_pass_input, args=(process, descriptor, reading), name="input", daemon=True
    )

    def resized(number: int, frame: FrameType | None) -> None:
        del number, frame
        # Not from here: this thread may hold a lock that sending needs.
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"r")

    before = signal.signal(signal.SIGWINCH, resized) if is_terminal else None
    thread.start()
    try:
        yield
    finally:
        if is_terminal:
            signal.signal(signal.SIGWINCH, before)
        os.close(writing)
        # Where the agent does not answer, the connection's end will end it.
        thread.join(GRACE_SECONDS)


def _pass_input(process: RemoteProcess, descriptor: int, wake: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(wake, select.POLLIN)
    # The end of the process, or of the connection, is told with its output; here it is only the end.
    with open(wake, "rb", buffering=0) as waking, contextlib.suppress(AgentError):
        while True:
            ready = [number for number, _ in poll.poll()]
            if wake in ready:
                if not waking.read(_CHUNK):
                    return
                process.resize(terminal_size(descriptor))
            if descriptor in ready:
                data = _read(descriptor)
                if data:
                    process.write(data, timeout=None)
                else:
                    poll.unregister(descriptor)
                    process.close_stdin()


def _read(descriptor: int) -> bytes:
    """Read what is there; nothing at the end, also at that of a terminal that is gone."""
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:
        return b""
