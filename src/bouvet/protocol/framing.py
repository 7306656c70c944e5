r"""Lines: how messages are cut from a stream, and what is said before the first of them.

A message is one line of UTF-8, ended by `\n`. Before its first message the host may have to name a port
to the VMM (Firecracker's vsock, "Host-Initiated Connections"): `CONNECT 52\n`, answered by `OK <n>\n`.
Neither side ever half-closes, so that a stream's end always means that the other side is gone.
"""

from __future__ import annotations

import re

from bouvet.errors import AgentError

PORT = 52
"""The vsock port that the agent listens on."""

LINE_LIMIT = 64 << 20
"""Bytes that a request or a response may have at most, without its newline.

It admits `CONTENT_LIMIT` bytes of content in the worst of JSON's encodings, six bytes for each.
"""

HANDSHAKE_LIMIT = 32
"""Bytes that the answer to `CONNECT` may have at most, without its newline."""

_HANDSHAKE_ANSWER = re.compile(rb"OK ([0-9]{1,10})")


class LineSplitter:
    """Turns a stream's pieces, as they were received, into lines.

    Args:
        limit: The most bytes a line may have without its newline.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._partial = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece and return the lines that are complete now, without their newlines.

        Raises:
            AgentError: A line is over the limit. The stream cannot be used any further.
        """
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = bytes(self._partial) + lines[0]
            self._partial.clear()
        self._partial += rest
        if len(self._partial) > self._limit or any(len(line) > self._limit for line in lines):
            raise AgentError(f"the agent sent a line of more than {self._limit} bytes")
        return lines

    @property
    def pending(self) -> int:
        """How many bytes of a line that is not complete yet are held."""
        return len(self._partial)


def connect_line(port: int = PORT) -> bytes:
    """Return the line that asks a VMM for a connection to a port of the guest."""
    return b"CONNECT %d\n" % port


def decode_connect_answer(line: bytes) -> int:
    """Return the number in the answer to `connect_line`: the port that the VMM gave its own end.

    Args:
        line: The answer without its newline.

    Raises:
        AgentError: It is not `OK <n>`.
    """
    match = _HANDSHAKE_ANSWER.fullmatch(line)
    if match is None:
        raise AgentError(f"the answer to CONNECT is not OK: {line[:HANDSHAKE_LIMIT]!r}")
    return int(match[1])
