"""Streams of a guest's files: raw bytes on a connection of their own, in frames.

Between the message that begins a stream and the one that ends it, the connection holds nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

from bouvet.errors import AgentError
from bouvet.protocol import (
    FRAME_LIMIT,
    HEADER_SIZE,
    Mark,
    Members,
    Notification,
    Response,
    decode_download,
    decode_error,
    decode_header,
    decode_message,
    decode_uploaded,
    encode_header,
    encode_request,
)
from bouvet.sandbox.connection import CallTimeout, ConnectionLost

STREAM_SECONDS = 60.0
"""How long the agent may neither send nor take anything, unless told otherwise."""

MESSAGE_LIMIT = 1 << 16
"""Bytes that a message beside a stream may have, without its newline."""

_REQUEST = 1
"""The `id` of the one request of a connection."""


class _Wire:
    """A connection that a stream has for itself, and owns."""

    def __init__(self, connection: socket.socket, timeout: float, what: str) -> None:
        self._connection = connection
        self._connection.settimeout(timeout)
        self._timeout = timeout
        self._what = what
        self._reader = connection.makefile("rb", FRAME_LIMIT)

    def send(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self._guarded(partial(self._connection.sendall, piece))

    def read(self, length: int) -> bytes:
        """Return so many bytes."""
        data: bytes = self._guarded(lambda: self._reader.read(length))
        if len(data) < length:
            raise ConnectionLost(f"the agent hung up in the middle of {self._what}", sent=True)
        return data

    def read_message(self) -> Response | Notification:
        line: bytes = self._guarded(lambda: self._reader.readline(MESSAGE_LIMIT + 1))
        if not line.endswith(b"\n"):
            if len(line) > MESSAGE_LIMIT:
                raise AgentError(f"the agent sent a line of more than {MESSAGE_LIMIT} bytes")
            raise ConnectionLost(f"the agent hung up in the middle of {self._what}", sent=True)
        return decode_message(line[:-1])

    def read_result(self) -> Any:
        """Return the result of the one request.

        Raises:
            RequestRefused: The agent answered with an error.
        """
        message = self.read_message()
        if not isinstance(message, Response) or message.request not in (_REQUEST, None):
            raise AgentError(f"the agent's answer to {self._what} is not what the protocol says")
        if message.error is not None:
            raise message.error
        return message.result

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except TimeoutError:
            raise CallTimeout(
                f"{self._what} has come no further for {self._timeout:g} s", sent=True
            ) from None
        except OSError as error:
            raise ConnectionLost(
                f"the connection to the agent was lost: {error.strerror}", sent=True
            ) from error


class Download:
    """A stream from the guest. Iterating yields its pieces, each of at most 1 MiB, once.

    Args:
        connection: A connection that is used for nothing else; it is closed with the stream.
        params: The parameters of `file.download`.
        timeout: Seconds that the agent may send nothing.

    Attributes:
        size: How many bytes the agent announced; None if it did not.

    Raises:
        RequestRefused: The file cannot be read; `errno` says why.
        CallFailed: The agent did not answer.
    """

    def __init__(
        self, connection: socket.socket, params: dict[str, Any], *, timeout: float = STREAM_SECONDS
    ) -> None:
        self._wire = _Wire(connection, timeout, "file.download")
        self._received = 0
        try:
            self._wire.send(encode_request(_REQUEST, "file.download", params))
            self.size = decode_download(self._wire.read_result())
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces.

        Raises:
            RequestRefused: The rest cannot be read; `errno` says why.
            CallFailed: The connection was lost, or nothing came for too long.
            AgentError: What came is not a stream, or not all of it.
        """
        while True:
            length = decode_header(self._wire.read(HEADER_SIZE))
            if length in (Mark.END, Mark.ABORTED):
                break
            self._received += length
            yield self._wire.read(length)
        self._finish(aborted=length == Mark.ABORTED)

    def _finish(self, *, aborted: bool) -> None:
        message = self._wire.read_message()
        if not isinstance(message, Notification) or message.method != "stream.end":
            raise AgentError("the agent's file.download does not end with stream.end")
        members = Members(message.params, message.method)
        members.integer("request", _REQUEST, _REQUEST)
        if "error" in members:
            raise decode_error(members.record("error").raw())
        if aborted:
            raise AgentError("the agent has given up the stream, and does not say why")
        if members.integer("bytes") != self._received:
            raise members.wrong("bytes")

    def close(self) -> None:
        """Close the connection, wherever the stream is."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Upload:
    """A stream to the guest. At the end of a `with` block it is complete, or given up after an exception.

    Args:
        connection: A connection that is used for nothing else; it is closed with the stream.
        params: The parameters of `file.upload`.
        timeout: Seconds that the agent may take nothing, and that its answer may take at the end.
    """

    def __init__(
        self, connection: socket.socket, params: dict[str, Any], *, timeout: float = STREAM_SECONDS
    ) -> None:
        self._wire = _Wire(connection, timeout, "file.upload")
        self._sent = 0
        try:
            self._wire.send(encode_request(_REQUEST, "file.upload", params))
        except BaseException:
            self._wire.close()
            raise

    def write(self, data: bytes | memoryview) -> int:
        """Send more bytes, any number of them.

        Raises:
            CallFailed: The connection was lost, or the agent takes nothing.
        """
        rest = memoryview(data)
        while rest:
            piece = rest[:FRAME_LIMIT]
            self._wire.send(encode_header(len(piece)), piece)
            rest = rest[len(piece) :]
        self._sent += len(data)
        return len(data)

    def finish(self) -> None:
        """End the stream, and wait until the guest has all of it in place.

        Raises:
            RequestRefused: It was not written; `errno` says why.
            CallFailed: No answer came.
        """
        try:
            self._wire.send(encode_header(Mark.END))
            taken = decode_uploaded(self._wire.read_result())
            if taken != self._sent:
                raise AgentError(f"the agent took {taken} bytes of {self._sent}")
        finally:
            self._wire.close()

    def abort(self) -> None:
        """Give the stream up: nothing of it stays in the guest.

        A frame may have been sent in part, so that only the connection's end can tell it.
        """
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abort()
