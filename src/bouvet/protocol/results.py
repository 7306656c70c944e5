"""Results of the base methods, typed and checked."""

from __future__ import annotations

from dataclasses import dataclass

from bouvet.errors import AgentError


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command left behind.

    Attributes:
        exit_code: Its exit status; 128 plus the signal's number if a signal ended it; `SPAWN_FAILED` if
            it could not be started.
        stdout: Its standard output; bytes that are not UTF-8 are replaced by U+FFFD.
        stderr: Its standard error, likewise.
    """

    exit_code: int
    stdout: str
    stderr: str


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


def _decode_entry(entry: object) -> DirectoryEntry:
    match entry:
        case {"name": str(name), "is_dir": bool(is_dir), "size": int(size)} if size >= 0:
            return DirectoryEntry(name, is_dir, int(size))
    raise _unexpected("list_dir")


def _unexpected(method: str) -> AgentError:
    return AgentError(f"the agent's result of {method} is not what the protocol says")
