"""Processes in a guest, with their output as it comes.

While nobody takes a process's output, and its queue is full, all that is asked on the same client waits as
well: who does not always take it gives the process a client of its own.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from bouvet.errors import AgentError
from bouvet.protocol import (
    Attached,
    Exit,
    ProcessEntry,
    ProcessEvent,
    RequestRefused,
    Started,
    command_params,
    decode_attached,
    decode_nothing,
    decode_processes,
    decode_started,
    decode_waited,
    decode_written,
)
from bouvet.sandbox.connection import CALL_SECONDS, CallFailed, CallTimeout, Connection
from bouvet.sandbox.output_queue import OutputQueue

END_SECONDS = 5.0
"""How long each step of a process's end may take: an agent that does not answer is not waited for."""

STDIN_PIECE = 256 << 10
"""Bytes that are sent to a process's standard input at once."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """A terminal's size in characters, each from 1 to 65535."""

    rows: int
    columns: int

    def params(self) -> dict[str, int]:
        """Return the size as the protocol has it."""
        return {"rows": self.rows, "columns": self.columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How a process is started. What is not given is as the agent has it.

    Attributes:
        arguments: `$1` and so on of a command's shell.
        cwd: The directory that it starts in; by default the user's home.
        environment: Variables, on top of the agent's default environment.
        user: A name or a number of the guest's users, with its groups and home; root by default.
        time_limit: Seconds after which the guest ends it with all that it has started.
        stdin: Whether it can be written to; otherwise its standard input is empty.
        terminal: The size of the terminal that it gets; None for none. A terminal can be written to.
        tied: Whether it ends with the connection that it was started on.
        buffer: Bytes of each stream that the agent keeps.
        watched: Whether its output comes here.
        lossless: Whether it waits for those who watch it, rather than lose output.
    """

    arguments: tuple[str, ...] = ()
    cwd: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | int | None = None
    time_limit: float | None = None
    stdin: bool = False
    terminal: TerminalSize | None = None
    tied: bool = False
    buffer: int | None = None
    watched: bool = True
    lossless: bool = True

    def params(self) -> dict[str, Any]:
        """Return the request's parameters. Output comes in base64, so that every byte is kept."""
        params = command_params(self.arguments, self.cwd, self.environment, self.user, self.time_limit)
        if self.terminal is not None:
            params["pty"] = self.terminal.params()
        elif self.stdin:
            params["stdin"] = True
        if self.buffer is not None:
            params["buffer"] = self.buffer
        switches = {
            "tie": (self.tied, False),
            "watch": (self.watched, True),
            "lossless": (self.lossless, True),
        }
        params |= {name: value for name, (value, default) in switches.items() if value != default}
        return params | {"encoding": "base64"}


class RemoteProcess:
    """A process in a guest. At the end of a `with` block it is killed, and the agent forgets it.

    Attributes:
        id: Its name in the protocol, by which another client can attach to it.
        pid: Its process id in the guest.
    """

    def __init__(self, connection: Connection, identifier: str, pid: int, queue: OutputQueue) -> None:
        self.id = identifier
        self.pid = pid
        self._connection = connection
        self._queue = queue

    @property
    def offsets(self) -> Mapping[str, int]:
        """For each stream how many bytes have been taken from here: where to go on, attached anew."""
        return dict(self._queue.taken)

    def events(self, *, timeout: float | None = None) -> Iterator[ProcessEvent]:
        """Yield its output in order, with gaps where some is lost, and at last its exit.

        Args:
            timeout: Seconds without any event after which to give up; None for never.

        Raises:
            CallTimeout: There was none for so long. It can be tried again.
            CallFailed: The connection has ended, or the agent sent what cannot be.
            AgentError: The process is not watched.
        """
        event: ProcessEvent | None = None
        while not isinstance(event, Exit):
            event = self.next_event(timeout=timeout)
            if event is None:
                raise CallTimeout(f"the process has told nothing for {timeout:g} s", sent=True)
            yield event

    def next_event(self, *, timeout: float | None = None) -> ProcessEvent | None:
        """Return what comes next, as `events` yields it; None if there is nothing for `timeout` seconds.

        Raises:
            CallFailed: The connection has ended, or the agent sent what cannot be.
            AgentError: The process is not watched.
        """
        if self._queue.subject is None:
            raise AgentError("the process is not watched", hint="attach to it")
        return self._queue.next(None if timeout is None else time.monotonic() + timeout)

    def write(self, data: bytes, *, timeout: float | None = CALL_SECONDS) -> None:
        """Write to its standard input, or its terminal; return when it was all taken.

        Args:
            data: The bytes.
            timeout: Seconds for each 256 KiB.

        Raises:
            CallTimeout: It does not read.
            CallFailed: There was no response.
            RequestRefused: It has ended, or closed its standard input (`errno` is `EPIPE`).
        """
        rest = memoryview(data)
        while rest:
            params = {"id": self.id, "data": base64.b64encode(rest[:STDIN_PIECE]).decode()}
            written = self._call("process.stdin", params | {"encoding": "base64"}, decode_written, timeout)
            if not 0 < written <= len(rest):
                raise AgentError(
                    f"the agent's process.stdin is not what the protocol says: {written} written"
                )
            rest = rest[written:]

    def close_stdin(self, *, timeout: float | None = CALL_SECONDS) -> None:
        """Let it read the end of its standard input.

        Raises:
            CallFailed: There was no response.
            RequestRefused: It has ended, or has no standard input.
        """
        self._call("process.stdin", {"id": self.id, "data": "", "close": True}, decode_written, timeout)

    def resize(self, size: TerminalSize, *, timeout: float = CALL_SECONDS) -> None:
        """Change its terminal's size.

        Raises:
            CallFailed: There was no response.
            RequestRefused: It has ended, or has no terminal.
        """
        self._call("process.resize", {"id": self.id, **size.params()}, decode_nothing, timeout)

    def signal(self, name: str | int, *, everything: bool = False, timeout: float = CALL_SECONDS) -> None:
        """Send it a signal.

        Args:
            name: The signal's name, such as `SIGTERM`, or its number.
            everything: Whether all that it has started gets it as well.
            timeout: Seconds to wait for the response.

        Raises:
            CallFailed: There was no response.
            RequestRefused: It has ended, or there is no such signal.
        """
        params = {"id": self.id, "signal": name} | ({"all": True} if everything else {})
        self._call("process.signal", params, decode_nothing, timeout)

    def kill(self, *, timeout: float = CALL_SECONDS) -> None:
        """End it at once, with all that it has started.

        Raises:
            CallFailed: There was no response.
            RequestRefused: The agent does not know it any more.
        """
        self._call("process.kill", {"id": self.id}, decode_nothing, timeout)

    def wait(self, *, timeout: float | None = None) -> Exit | None:
        """Wait for its end; None if it has not ended after `timeout` seconds.

        It may wait for its output to be taken: who wants all output iterates over `events` instead.

        Raises:
            CallFailed: There was no response.
            RequestRefused: The agent does not know it any more.
        """
        params: dict[str, Any] = {"id": self.id}
        if timeout is not None:
            params["timeout_ms"] = round(timeout * 1000)
        patience = None if timeout is None else timeout + END_SECONDS
        return self._call("process.wait", params, decode_waited, patience)

    def detach(self, *, timeout: float = CALL_SECONDS) -> None:
        """Get no more of its output; it runs on.

        Raises:
            CallFailed: There was no response.
        """
        self._queue.discard()
        if self._queue.subject is not None and self._queue.exit is None:
            self._call("process.detach", {"id": self.id}, decode_nothing, timeout)

    def forget(self, *, timeout: float = CALL_SECONDS) -> None:
        """Let the agent forget it, after its end.

        Raises:
            CallFailed: There was no response.
            RequestRefused: It runs.
        """
        self._call("process.forget", {"id": self.id}, decode_nothing, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.discard()
        # Where the connection has ended, or the agent has forgotten the process, nothing is left to do.
        with contextlib.suppress(CallFailed, RequestRefused):
            if self._queue.exit is None:
                self.kill(timeout=END_SECONDS)
                self.wait(timeout=END_SECONDS)
                self.detach(timeout=END_SECONDS)
            self.forget(timeout=END_SECONDS)

    def _call(
        self, method: str, params: dict[str, Any], decode: Callable[[object], Result], timeout: float | None
    ) -> Result:
        return self._connection.call(method, params, decode, timeout=timeout)


class Processes:
    """The processes of a guest that its agent has started.

    Args:
        connection: The connection that they are started and watched on.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(
        self,
        command: str | Sequence[str],
        options: ProcessOptions | None = None,
        *,
        timeout: float = CALL_SECONDS,
    ) -> RemoteProcess:
        """Start a process.

        Args:
            command: A line for `sh -c`, or a program with its arguments.
            options: More that it is given.
            timeout: Seconds to wait for its start.

        Raises:
            CallFailed: No response came; `sent` says whether it may run.
            RequestRefused: It cannot be started; `errno` says why.
        """
        options = options or ProcessOptions()
        what = {"cmd": command} if isinstance(command, str) else {"argv": list(command)}
        queue = OutputQueue(self._connection)
        watching = options.watched

        def begin(result: object) -> None:
            if watching:
                queue.begin(decode_started(result).id, {})

        try:
            started: Started = self._connection.call(
                "process.start", what | options.params(), decode_started, timeout=timeout, on_response=begin
            )
        except BaseException:
            queue.discard()
            raise
        return RemoteProcess(self._connection, started.id, started.pid, queue)

    def attach(
        self, identifier: str, *, offsets: Mapping[str, int] | None = None, timeout: float = CALL_SECONDS
    ) -> RemoteProcess:
        """Watch a process that was started before, on this connection or another; it may have ended.

        Args:
            identifier: Its name in the protocol.
            offsets: The first byte of each stream that is wanted; the oldest that the agent has if not
                given. What the agent has not any more becomes a gap.
            timeout: Seconds to wait for the response.

        Raises:
            CallFailed: No response came.
            RequestRefused: The agent does not know it.
        """
        wanted = dict(offsets or {})
        params: dict[str, Any] = {"id": identifier, "encoding": "base64"}
        if wanted:
            params["offsets"] = wanted
        queue = OutputQueue(self._connection)

        def begin(result: object) -> None:
            queue.begin(identifier, {**decode_attached(result).oldest, **wanted})

        try:
            attached: Attached = self._connection.call(
                "process.attach", params, decode_attached, timeout=timeout, on_response=begin
            )
        except BaseException:
            queue.discard()
            raise
        return RemoteProcess(self._connection, identifier, attached.pid, queue)

    def list(self, *, timeout: float = CALL_SECONDS) -> tuple[ProcessEntry, ...]:
        """Return the processes that run, and those that have ended and are not forgotten.

        Raises:
            CallFailed: No response came.
        """
        return self._connection.call("process.list", {}, decode_processes, timeout=timeout)
