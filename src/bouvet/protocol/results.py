"""Results of the base methods and of `hello`, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bouvet.errors import AgentError
from bouvet.protocol.commands import MAX_OUTPUT, Ending, decode_ending
from bouvet.protocol.members import Members

_NAME_LIMIT = 256

_MARK_ROOM = 64
"""What a stream that was cut may be longer than its limit, for the mark at its end."""


@dataclass(frozen=True, slots=True)
class CommandDetails:
    """What is known of a command that was given options.

    Attributes:
        ending: How it ended.
        stdout: The bytes of its standard output.
        stderr: The bytes of its standard error.
        truncated: Whether a stream was longer than what the result holds.
    """

    ending: Ending
    stdout: bytes
    stderr: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command left behind.

    Attributes:
        exit_code: Its exit status; 128 plus the signal's number if a signal ended it; `SPAWN_FAILED` if
            it could not be started.
        stdout: Its standard output; bytes that are not UTF-8 are replaced by U+FFFD.
        stderr: Its standard error, likewise.
        details: More; None if the command was given no options.
    """

    exit_code: int
    stdout: str
    stderr: str
    details: CommandDetails | None = None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name in a directory.

    Attributes:
        name: The name; bytes that are not UTF-8 are replaced by U+FFFD.
        is_dir: Whether it is a directory; a symbolic link to one is not.
        size: Its size in bytes, 0 for a directory.
    """

    name: str
    is_dir: bool
    size: int


@dataclass(frozen=True, slots=True)
class Hello:
    """What an agent says of itself.

    Attributes:
        protocol: The protocol's version.
        agent: The agent's version.
        capabilities: The groups of methods that it has, such as `process`.
        limits: What it takes at most, such as `connections`.
    """

    protocol: int
    agent: str
    capabilities: frozenset[str]
    limits: Mapping[str, int]


def decode_ping(result: object) -> None:
    """Check the result of `ping`.

    Raises:
        AgentError: It is something else.
    """
    match result:
        case {"pong": True}:
            return
    raise _unexpected("ping")


def decode_exec(result: object) -> ExecResult:
    """Read the result of `exec` or `exec_code`.

    Raises:
        AgentError: It is something else.
    """
    match result:
        case {"exit_code": int(exit_code), "stdout": str(stdout), "stderr": str(stderr)}:
            return ExecResult(int(exit_code), stdout, stderr)
    raise _unexpected("exec")


def decode_detailed_exec(result: object) -> ExecResult:
    """Read the result of `exec` or `exec_code` with options, whose streams are in base64.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "exec")
    stdout = members.content("stdout", MAX_OUTPUT + _MARK_ROOM)
    stderr = members.content("stderr", MAX_OUTPUT + _MARK_ROOM)
    ending = decode_ending(members)
    details = CommandDetails(ending, stdout, stderr, members.flag("truncated"))
    return ExecResult(
        ending.exit_code, stdout.decode(errors="replace"), stderr.decode(errors="replace"), details
    )


def decode_hello(result: object) -> Hello:
    """Read the result of `hello`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "hello")
    names = members.items("capabilities", _decode_name, 1024)
    return Hello(
        members.integer("protocol", 1),
        members.text("agent", 256),
        frozenset(names),
        members.integers("limits"),
    )


def decode_cancelled(result: object) -> bool:
    """Read the result of `cancel`: whether there was something to cancel.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "cancel").flag("cancelled")


def decode_nothing(result: object) -> None:
    """Check the result of a method that has nothing to say.

    Raises:
        AgentError: It is no object.
    """
    Members(result, "result")


def decode_read_file(result: object) -> str:
    """Read the result of `read_file`: the content.

    Raises:
        AgentError: It is something else.
    """
    match result:
        case {"content": str(content)}:
            return content
    raise _unexpected("read_file")


def decode_write_file(result: object) -> None:
    """Check the result of `write_file`.

    Raises:
        AgentError: It is something else.
    """
    match result:
        case {"success": True}:
            return
    raise _unexpected("write_file")


def decode_list_dir(result: object) -> tuple[DirectoryEntry, ...]:
    """Read the result of `list_dir`.

    Raises:
        AgentError: It is something else.
    """
    match result:
        case {"entries": list(entries)}:
            return tuple(_decode_entry(entry) for entry in entries)
    raise _unexpected("list_dir")


def _decode_name(name: object) -> str:
    match name:
        case str() if len(name) <= _NAME_LIMIT:
            return name
    raise _unexpected("hello")


def _decode_entry(entry: object) -> DirectoryEntry:
    match entry:
        case {"name": str(name), "is_dir": bool(is_dir), "size": int(size)} if size >= 0:
            return DirectoryEntry(name, is_dir, int(size))
    raise _unexpected("list_dir")


def _unexpected(method: str) -> AgentError:
    return AgentError(f"the agent's result of {method} is not what the protocol says")
