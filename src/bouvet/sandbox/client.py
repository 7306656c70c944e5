"""The host's client of a guest's agent: the base methods, and the way to all others."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from bouvet.protocol import (
    CommandOptions,
    DirectoryEntry,
    ExecResult,
    Hello,
    decode_detailed_exec,
    decode_exec,
    decode_hello,
    decode_list_dir,
    decode_ping,
    decode_read_file,
    decode_write_file,
)
from bouvet.sandbox.connection import CALL_SECONDS, Connection, PendingCall
from bouvet.sandbox.files import Files
from bouvet.sandbox.processes import Processes
from bouvet.sandbox.system import System

Result = TypeVar("Result")


class AgentClient:
    """A client over a connected socket, which it owns. Safe for use by many threads.

    A call that is given up, because its time is over or by Ctrl-C, is cancelled: an agent that knows
    `cancel` ends the command with all that it has started.

    Args:
        connection: A connected stream socket: the agent's first byte is the first message's.
        connect: Makes another connection to the same agent; streams need one each.

    Attributes:
        processes: Processes with streamed input and output.
        files: Files, streams of them, and changes to them.
        system: The guest itself.
    """

    def __init__(
        self, connection: socket.socket, *, connect: Callable[[], socket.socket] | None = None
    ) -> None:
        self._connection = Connection(connection)
        self.processes = Processes(self._connection)
        self.files = Files(self._connection, connect)
        self.system = System(self._connection)

    def ping(self, *, timeout: float = CALL_SECONDS) -> None:
        """Ask for a sign of life."""
        self._connection.call("ping", {}, decode_ping, timeout=timeout)

    def hello(self, *, timeout: float = CALL_SECONDS) -> Hello:
        """Ask for the protocol's version and what the agent is able to do.

        Raises:
            CallFailed: No response came.
            RequestRefused: The agent knows the base methods only.
        """
        return self._connection.call("hello", {}, decode_hello, timeout=timeout)

    def exec(
        self, command: str, options: CommandOptions | None = None, *, timeout: float | None = CALL_SECONDS
    ) -> ExecResult:
        """Run a command by `sh -c`, as root in `/root` unless the options say otherwise.

        Args:
            command: What the shell runs.
            options: More that it is given; its result then has `details`.
            timeout: Seconds to wait for its end; None waits for ever. Then the call is cancelled; a
                `time_limit` in the options ends the command with a result instead.

        Raises:
            CallFailed: No response came; `sent` says whether the command may have run.
            RequestRefused: The agent answered with an error.
        """
        return self._exec("exec", {"cmd": command}, options, timeout)

    def exec_code(
        self,
        language: str,
        code: str,
        options: CommandOptions | None = None,
        *,
        timeout: float | None = CALL_SECONDS,
    ) -> ExecResult:
        """Run code in a language: `python`, `node`, `bash`, `sh` or `rust`; otherwise as `exec`.

        An unknown language is exit code -1, as is a language that the guest does not have.

        Raises:
            CallFailed: No response came; `sent` says whether the code may have run.
            RequestRefused: The agent answered with an error.
        """
        return self._exec("exec_code", {"lang": language, "code": code}, options, timeout)

    def read_file(self, path: str, *, timeout: float = CALL_SECONDS) -> str:
        """Return a file's content: UTF-8 text of at most 10 MiB.

        Raises:
            CallFailed: No response came.
            RequestRefused: The file cannot be read; `errno` says why.
        """
        return self._connection.call("read_file", {"path": path}, decode_read_file, timeout=timeout)

    def write_file(self, path: str, content: str, *, timeout: float = CALL_SECONDS) -> None:
        """Write a file of at most 10 MiB in one step; missing directories are made.

        Raises:
            CallFailed: No response came; `sent` says whether it may have been written.
            RequestRefused: The file cannot be written; `errno` says why.
        """
        params = {"path": path, "content": content}
        self._connection.call("write_file", params, decode_write_file, timeout=timeout)

    def list_dir(self, path: str, *, timeout: float = CALL_SECONDS) -> tuple[DirectoryEntry, ...]:
        """Return a directory's entries, sorted by name.

        Raises:
            CallFailed: No response came.
            RequestRefused: The directory cannot be read; `errno` says why.
        """
        return self._connection.call("list_dir", {"path": path}, decode_list_dir, timeout=timeout)

    def call(self, method: str, params: dict[str, Any], *, timeout: float | None = CALL_SECONDS) -> Any:
        """Send any request and return its result, unchecked.

        Raises:
            CallFailed: No response came.
            RequestRefused: The agent answered with an error.
            AgentError: The request cannot be encoded.
        """
        return self._connection.call(method, params, _unchecked, timeout=timeout)

    def submit(self, command: str, options: CommandOptions | None = None) -> PendingCall[ExecResult]:
        """Begin a command as `exec` does, and return at once: its result can be had, or cancelled, later.

        Raises:
            CallFailed: It was not sent.
        """
        params = {"cmd": command} | ({} if options is None else options.params())
        decode = decode_exec if options is None else decode_detailed_exec
        return self._connection.submit("exec", params, decode)

    def close(self) -> None:
        """Close the connection. Calls that wait for a response fail."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exec(
        self, method: str, params: dict[str, Any], options: CommandOptions | None, timeout: float | None
    ) -> ExecResult:
        if options is None:
            return self._connection.call(method, params, decode_exec, timeout=timeout)
        return self._connection.call(method, params | options.params(), decode_detailed_exec, timeout=timeout)


def _unchecked(result: object) -> Any:
    return result
