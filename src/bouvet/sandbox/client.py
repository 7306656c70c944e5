"""The host's client of a guest's agent.

One thread reads the connection and hands each response to the call that waits for it, so that any number
of threads may call at once. Nothing that the guest sends is believed: lines are bounded, a response that
nobody waits for ends the connection, and so does everything that is not of the protocol.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from bouvet.errors import AgentError
from bouvet.protocol import (
    DirectoryEntry,
    ExecResult,
    LineSplitter,
    Response,
    decode_exec,
    decode_list_dir,
    decode_ping,
    decode_read_file,
    decode_response,
    decode_write_file,
    encode_request,
)

CALL_SECONDS = 60.0
"""How long a call waits for its response, unless told otherwise."""

_PIECE = 1 << 18

Result = TypeVar("Result")


class CallFailed(AgentError):
    """A request got no response.

    Attributes:
        sent: Whether the guest may have got the request, and so may have carried it out.
    """

    def __init__(self, message: str, *, sent: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class CallTimeout(CallFailed):
    """A request got no response in time. It may still be carried out; the connection can be used on."""


class ConnectionLost(CallFailed):
    """The other side of the connection is gone: the agent, or its machine, or what was between."""


@dataclass(frozen=True, slots=True)
class _Break:
    """Why a connection cannot be used any more."""

    why: str
    failure: type[CallFailed] = CallFailed


@dataclass
class _Call:
    """A request that waits for its response."""

    done: threading.Event = field(default_factory=threading.Event)
    response: Response | None = None


class AgentClient:
    """A client over a connected socket, which it owns. Safe for use by many threads.

    Args:
        connection: A connected stream socket: the agent's first byte is the first response's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(None)
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._abandoned: set[int] = set()
        self._state = threading.Lock()
        self._sending = threading.Lock()
        self._broken: _Break | None = None
        self._reader = threading.Thread(target=self._read, name="agent client", daemon=True)
        self._reader.start()

    def ping(self, *, timeout: float = CALL_SECONDS) -> None:
        """Ask for a sign of life."""
        self._typed("ping", {}, decode_ping, timeout)

    def exec(self, command: str, *, timeout: float | None = CALL_SECONDS) -> ExecResult:
        """Run a command by `sh -c`, as root in `/root`.

        Args:
            command: What the shell runs.
            timeout: Seconds to wait for its end; None waits for ever. The command is not ended by it.

        Raises:
            CallFailed: No response came; `sent` says whether the command may have run.
            RequestRefused: The agent answered with an error.
        """
        return self._typed("exec", {"cmd": command}, decode_exec, timeout)

    def exec_code(self, language: str, code: str, *, timeout: float | None = CALL_SECONDS) -> ExecResult:
        """Run code in a language: `python`, `node`, `bash`, `sh` or `rust`.

        An unknown language is exit code -1, as is a language that the guest does not have.

        Raises:
            CallFailed: No response came; `sent` says whether the code may have run.
            RequestRefused: The agent answered with an error.
        """
        return self._typed("exec_code", {"lang": language, "code": code}, decode_exec, timeout)

    def read_file(self, path: str, *, timeout: float = CALL_SECONDS) -> str:
        """Return a file's content: UTF-8 text of at most 10 MiB.

        Raises:
            CallFailed: No response came.
            RequestRefused: The file cannot be read; `errno` says why.
        """
        return self._typed("read_file", {"path": path}, decode_read_file, timeout)

    def write_file(self, path: str, content: str, *, timeout: float = CALL_SECONDS) -> None:
        """Write a file of at most 10 MiB in one step; missing directories are made.

        Raises:
            CallFailed: No response came; `sent` says whether it may have been written.
            RequestRefused: The file cannot be written; `errno` says why.
        """
        self._typed("write_file", {"path": path, "content": content}, decode_write_file, timeout)

    def list_dir(self, path: str, *, timeout: float = CALL_SECONDS) -> tuple[DirectoryEntry, ...]:
        """Return a directory's entries, sorted by name.

        Raises:
            CallFailed: No response came.
            RequestRefused: The directory cannot be read; `errno` says why.
        """
        return self._typed("list_dir", {"path": path}, decode_list_dir, timeout)

    def call(self, method: str, params: dict[str, Any], *, timeout: float | None = CALL_SECONDS) -> Any:
        """Send any request and return its result, unchecked.

        Raises:
            CallFailed: No response came.
            RequestRefused: The agent answered with an error.
            AgentError: The request cannot be encoded.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        number = next(self._numbers)
        line = encode_request(number, method, params)
        call = _Call()
        with self._state:
            if self._broken is not None:
                raise self._broken.failure(f"{self._broken.why}; {method} was not sent", sent=False)
            self._calls[number] = call
        try:
            self._send(line, method, deadline)
        except BaseException:
            with self._state:
                self._calls.pop(number, None)
            raise
        try:
            answered = call.done.wait(_left(deadline))
        finally:
            # Also when Ctrl-C ends the wait: the response may still come.
            waiting = self._abandon(number)
        if not answered and waiting:
            raise CallTimeout(f"the agent did not answer {method} within {timeout:g} s", sent=True)
        if call.response is None:
            assert self._broken is not None
            raise self._broken.failure(f"{self._broken.why}; {method} was sent, not answered", sent=True)
        if call.response.error is not None:
            raise call.response.error
        return call.response.result

    def close(self) -> None:
        """Close the connection. Calls that wait for a response fail."""
        self._break("the connection was closed")
        self._reader.join()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _typed(
        self,
        method: str,
        params: dict[str, Any],
        decode: Callable[[object], Result],
        timeout: float | None,
    ) -> Result:
        return decode(self.call(method, params, timeout=timeout))

    def _send(self, line: bytes, method: str, deadline: float | None) -> None:
        """Write a request. A part of one would spoil the stream, so being stopped there ends the connection.

        The agent acts on whole lines only: whatever stops this, the request was not sent.
        """
        left = _left(deadline)
        if not self._sending.acquire(timeout=-1 if left is None else left):
            raise CallTimeout(f"other requests are being sent; {method} was not", sent=False)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._send_some(rest, deadline) :]
        except TimeoutError:
            raise CallTimeout(f"the agent does not read; {method} was not sent", sent=False) from None
        except OSError as error:
            why = f"the connection to the agent was lost: {error.strerror}"
            self._break(why, ConnectionLost)
            raise ConnectionLost(f"{why}; {method} was not sent", sent=False) from error
        finally:
            if 0 < len(rest) < len(line):
                self._break(f"the agent was sent a part of {method} only")
            self._sending.release()

    def _send_some(self, rest: memoryview, deadline: float | None) -> int:
        """Send what the socket takes; wait until it takes something.

        The reader blocks on the same socket, so that its timeout must stay as it is.
        """
        while True:
            try:
                return self._connection.send(rest, socket.MSG_DONTWAIT)
            except BlockingIOError:
                left = _left(deadline)
                poll = select.poll()
                poll.register(self._connection, select.POLLOUT)
                if not poll.poll(None if left is None else left * 1000):
                    raise TimeoutError from None

    def _read(self) -> None:
        """Hand out responses until the connection ends."""
        splitter = LineSplitter()
        try:
            while piece := self._connection.recv(_PIECE):
                for line in splitter.feed(piece):
                    self._deliver(decode_response(line))
            self._break("the agent closed the connection", ConnectionLost)
        except AgentError as error:
            self._break(error.message)
        except OSError as error:
            self._break(f"the connection to the agent was lost: {error.strerror}", ConnectionLost)
        finally:
            # Without this thread nobody would ever be answered (it may have run out of memory).
            self._break("what the agent sent could not be read")

    def _deliver(self, response: Response) -> None:
        number = response.request
        if number is None and response.error is not None:
            raise AgentError(f"the agent could not read a request: {response.error.message}")
        if not isinstance(number, int):
            raise AgentError("the agent answered a request that nobody sent")
        with self._state:
            call = self._calls.pop(number, None)
            if call is None and number not in self._abandoned:
                raise AgentError("the agent answered a request that nobody sent, or one twice")
            self._abandoned.discard(number)
        if call is not None:
            call.response = response
            call.done.set()

    def _abandon(self, number: int) -> bool:
        """Stop waiting for a response, which may still come; return whether it had not."""
        with self._state:
            waiting = self._calls.pop(number, None) is not None
            if waiting:
                self._abandoned.add(number)
        return waiting

    def _break(self, why: str, failure: type[CallFailed] = CallFailed) -> None:
        """End the connection: every call that waits fails, and every later one."""
        with self._state:
            if self._broken is None:
                self._broken = _Break(why, failure)
            calls = list(self._calls.values())
            self._calls.clear()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for call in calls:
            call.done.set()


def _left(deadline: float | None) -> float | None:
    """Return the seconds that are left; None is for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
