"""Requests, responses and notifications: JSON-RPC 2.0, one object a line.

The agent answers requests in the order in which they are done, not in which they were sent: the `id`
says which one a response belongs to. What comes from the guest is believed in nothing: every function
here that reads a message raises `AgentError` for all that is not as it must be.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from bouvet.errors import AgentError
from bouvet.protocol.framing import LINE_LIMIT

CONTENT_LIMIT = 10 << 20
"""Bytes of a file's content that `read_file` returns and `write_file` takes at most."""

ELEMENT_LIMIT = 1 << 21
"""Members and elements that a response may have at most: half a million directory entries.

Each costs the host up to a hundred bytes, of which the guest has to send three.
"""

OUTPUT_LIMIT = 1 << 20
"""Bytes of each of a command's streams that a result holds at most, before `OUTPUT_MARK`."""

OUTPUT_MARK = "\n... [output truncated]"
"""The end of a stream that was cut."""

SPAWN_FAILED = -1
"""The exit code of a command that could not be started; its standard error says why."""


# Possessive: an end that is missing is found missing at once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class ErrorCode(enum.IntEnum):
    """The codes of JSON-RPC 2.0, section 5.1, and one of the agent's own; it uses no others."""

    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    CANCELLED = -32800
    """The request was cancelled."""


class RequestRefused(AgentError):
    """The agent answered a request with an error.

    Attributes:
        code: One of `ErrorCode`, as a number: the agent may be newer.
        errno: The name of the system call's error behind it, such as `ENOENT`; None if there is none.
    """

    def __init__(self, message: str, *, code: int, errno: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Response:
    """One response: the result of a request, or why there is none.

    Attributes:
        request: The `id` of the request; None if the agent could not read it.
        result: The result; None if there is an error.
        error: The error; None if there is a result.
    """

    request: int | str | None
    result: Any
    error: RequestRefused | None


@dataclass(frozen=True, slots=True)
class Notification:
    """What the agent tells without having been asked.

    Attributes:
        method: What it is about.
        params: The rest, unchecked.
    """

    method: str
    params: dict[str, Any]


def encode_request(request: int, method: str, params: Mapping[str, Any]) -> bytes:
    """Return a request's line, with its newline.

    Raises:
        AgentError: The line would be over `LINE_LIMIT`, or a string in it is not valid Unicode.
    """
    return _encode({"jsonrpc": "2.0", "id": request, "method": method, "params": params}, method)


def encode_notification(method: str, params: Mapping[str, Any]) -> bytes:
    """Return the line of a request that is not answered, with its newline.

    Raises:
        AgentError: As for `encode_request`.
    """
    return _encode({"jsonrpc": "2.0", "method": method, "params": params}, method)


def _encode(message: dict[str, Any], method: str) -> bytes:
    try:
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise AgentError(f"a parameter of {method} is not valid Unicode: {error.reason}") from error
    if len(line) > LINE_LIMIT:
        raise AgentError(f"a request of {len(line)} bytes is over the limit of {LINE_LIMIT}")
    return line + b"\n"


def decode_response(line: bytes) -> Response:
    """Read one line from the agent, where nothing but a response is awaited.

    Raises:
        AgentError: It is not a response.
    """
    message = decode_message(line)
    if isinstance(message, Notification):
        raise AgentError(f"the agent sent the notification {message.method[:80]!r} instead of a response")
    return message


def decode_message(line: bytes) -> Response | Notification:
    """Read one line from the agent.

    Raises:
        AgentError: It is neither a response nor a notification.
    """
    if _count_elements(line) > ELEMENT_LIMIT:
        raise AgentError(f"the agent sent a response of more than {ELEMENT_LIMIT} elements")
    try:
        message = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"the agent sent a line that is not JSON: {line[:80]!r}") from error
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise AgentError(f"the agent sent a line that is not a JSON-RPC response: {line[:80]!r}")
    if "method" in message:
        return _decode_notification(message)
    request = message.get("id")
    if isinstance(request, bool) or not isinstance(request, int | str | None):
        raise AgentError("the agent sent a response whose id is neither a number nor a string")
    if "error" in message:
        return Response(request, None, decode_error(message["error"]))
    if "result" not in message:
        raise AgentError("the agent sent a response with neither a result nor an error")
    return Response(request, message["result"], None)


def _decode_notification(message: dict[str, Any]) -> Notification:
    match message:
        case {"id": _}:
            raise AgentError("the agent sent a request")
        case {"method": str(method), "params": dict(params)}:
            return Notification(method, params)
    raise AgentError("the agent sent a notification without a method or params")


def _count_elements(line: bytes) -> int:
    """Return how many members and elements a line may have at most, or a number over the limit."""
    count = _separators(line, 0, len(line))
    if count <= ELEMENT_LIMIT:
        return count
    # Some may be inside strings, such as a file's content, which is one element.
    count = position = 0
    while count <= ELEMENT_LIMIT and position < len(line):
        quote = line.find(b'"', position)
        string = _STRING.match(line, quote) if quote >= 0 else None
        count += 1 + _separators(line, position, quote if string else len(line))
        position = string.end() if string else len(line)
    return count


def _separators(line: bytes, start: int, end: int) -> int:
    return sum(line.count(character, start, end) for character in (b",", b"[", b"{"))


def decode_error(error: object) -> RequestRefused:
    """Read an error of the agent's.

    Raises:
        AgentError: It is something else.
    """
    match error:
        case {"code": int(code), "message": str(message), "data": {"errno": str(errno)}}:
            return RequestRefused(message, code=code, errno=errno)
        case {"code": int(code), "message": str(message)}:
            return RequestRefused(message, code=code)
    raise AgentError("the agent sent an error without a code and a message")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
