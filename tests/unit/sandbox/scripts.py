"""What guests say in tests: messages as an agent sends them, and guests that follow a script."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

Guest = Callable[[socket.socket], object]


def respond(number: object, **members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, **members}).encode() + b"\n"


def tell(method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode() + b"\n"


def output(offset: int, data: bytes, *, process: str = "p1", stream: str = "stdout") -> bytes:
    text = base64.b64encode(data).decode()
    return tell("process.output", id=process, stream=stream, offset=offset, data=text, encoding="base64")


def exit_told(exit_code: int = 0, *, process: str = "p1", **more: object) -> bytes:
    return tell("process.exit", **({"id": process} | ending(exit_code) | more))


def ending(exit_code: int = 0) -> dict[str, object]:
    return {
        "exit_code": exit_code,
        "signal": None,
        "timed_out": False,
        "oom_killed": False,
        "duration_ms": 12,
        "stdout": 0,
        "stderr": 0,
    }


Said = bytes | dict[str, Any]


def answering(*answers: Said | Sequence[Said]) -> Guest:
    """Return a guest that answers each request by the next answer, and then waits for the client's end.

    An answer is a result, or bytes that are sent as they are, or several of these. A result in bytes' place
    gets the request's id.
    """

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        for answer in answers:
            number = next_request(stream)["id"]
            for piece in [answer] if isinstance(answer, bytes | dict) else answer:
                guest.sendall(piece if isinstance(piece, bytes) else respond(number, result=piece))
        while stream.read(1 << 16):
            pass

    return live


def next_request(stream: Any) -> dict[str, Any]:
    """Return the next request; notifications, such as those to cancel, are passed over."""
    while True:
        line = stream.readline()
        if not line:
            raise ConnectionResetError
        message: dict[str, Any] = json.loads(line)
        if "id" in message:
            return message
