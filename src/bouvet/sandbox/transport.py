r"""Connections to a guest's agent: through the machine's vsock socket, or to an agent on this host.

A machine monitor gives one Unix socket for all of a guest's ports: the host connects, sends
`CONNECT <port>\n` and reads `OK <n>\n` (Firecracker, docs/vsock.md, "Host-Initiated Connections"). While
nobody listens in the guest, the connection is closed without an answer; so attempts are short and many.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from bouvet.errors import AgentError
from bouvet.protocol import HANDSHAKE_LIMIT, PORT, connect_line, decode_connect_answer

ATTEMPT_SECONDS = 1.0
"""How long one attempt may take: a guest that is still booting does not answer at all."""

PAUSE_SECONDS = 0.02
"""How long to wait after a refused attempt, for the machine's end or the next attempt."""


class NotListening(AgentError):
    """Nobody listens on the guest's port, or the machine's socket is gone."""


def connect(path: Path, *, port: int = PORT, timeout: float = ATTEMPT_SECONDS) -> socket.socket:
    """Connect to a port of a guest once, and return the connected socket, blocking.

    Args:
        path: The machine's socket; it may be longer than a socket's address can be.
        port: The guest's vsock port.
        timeout: Seconds.

    Raises:
        NotListening: Nobody answered in time.
        AgentError: The answer is not the protocol's.
    """
    deadline = time.monotonic() + timeout
    connection = connect_unix(path, timeout=timeout)
    try:
        connection.sendall(connect_line(port))
        line = _read_line(connection, deadline)
        decode_connect_answer(line)
    except OSError as error:
        connection.close()
        raise NotListening(f"port {port} of the guest does not answer: {error}") from error
    except BaseException:
        connection.close()
        raise
    connection.settimeout(None)
    return connection


def connect_unix(path: Path, *, timeout: float = ATTEMPT_SECONDS) -> socket.socket:
    """Connect to a Unix socket whose path may be longer than the 107 bytes of an address.

    Raises:
        NotListening: It is not there, or nobody listens.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(timeout)
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise NotListening(f"{path} does not answer: {error}") from error
    return connection


def dial(
    path: Path,
    *,
    deadline: float,
    ended: Callable[[float], bool],
    port: int = PORT,
) -> socket.socket:
    """Connect to a port of a guest as soon as somebody listens there.

    Args:
        path: The machine's socket.
        deadline: When to give up, in seconds of `time.monotonic`.
        ended: Waits so many seconds for the machine's end; says whether it has ended.
        port: The guest's vsock port.

    Raises:
        NotListening: Nobody listened until the deadline, or the machine has ended.
        AgentError: The answer is not the protocol's.
    """
    while True:
        left = deadline - time.monotonic()
        try:
            return connect(path, port=port, timeout=max(0.001, min(ATTEMPT_SECONDS, left)))
        except NotListening:
            if ended(min(PAUSE_SECONDS, max(0.0, left))) or left <= 0:
                raise


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Read up to the first newline and not a byte further: what follows is the guest's."""
    line = b""
    while len(line) <= HANDSHAKE_LIMIT:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        peeked = connection.recv(HANDSHAKE_LIMIT + 1 - len(line), socket.MSG_PEEK)
        if not peeked:
            raise ConnectionResetError("closed without an answer")
        end = peeked.find(b"\n")
        taken = connection.recv(end + 1 if end >= 0 else len(peeked))
        line += taken
        if end >= 0:
            return line[:-1]
    raise AgentError(f"the answer to CONNECT is longer than {HANDSHAKE_LIMIT} bytes")
