"""Processes of the guest: their output as notifications, each byte with its offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bouvet.errors import AgentError
from bouvet.protocol.commands import Ending, decode_ending
from bouvet.protocol.members import Members
from bouvet.protocol.messages import Notification

STREAMS = ("stdout", "stderr", "terminal")
"""A process has the first two, or with a terminal the last."""

OUTPUT_PIECE_LIMIT = 1 << 20
"""Bytes of output that one notification holds at most."""

PROCESSES_LIMIT = 1 << 16
"""Processes that a list holds at most."""

ID_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Started:
    """A process of the guest.

    Attributes:
        id: Its name in the protocol.
        pid: Its process id in the guest.
    """

    id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Attached:
    """A process that is watched from now on.

    Attributes:
        id: Its name in the protocol.
        pid: Its process id in the guest.
        running: Whether it runs.
        oldest: For each stream the offset of the first byte that the agent still has.
    """

    id: str
    pid: int
    running: bool
    oldest: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a process's output.

    Attributes:
        stream: `stdout`, `stderr` or `terminal`.
        offset: How many bytes of the stream come before it.
        data: The bytes.
    """

    stream: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a process's output that are lost.

    Attributes:
        stream: `stdout`, `stderr` or `terminal`.
        offset: How many bytes of the stream come before them.
        length: How many they are.
    """

    stream: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Exit:
    """A process's end, after which there is no more output.

    Attributes:
        ending: How it ended.
        totals: For each stream how many bytes it had.
    """

    ending: Ending
    totals: Mapping[str, int]


ProcessEvent = Output | Gap | Exit


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """A process in a list.

    Attributes:
        id: Its name in the protocol.
        pid: Its process id in the guest.
        command: What runs, for people.
        running: Whether it has not ended.
    """

    id: str
    pid: int
    command: str
    running: bool


def decode_started(result: object) -> Started:
    """Read the result of `process.start`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "process.start")
    return Started(members.text("id", ID_LIMIT), members.integer("pid", 1))


def decode_attached(result: object) -> Attached:
    """Read the result of `process.attach`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "process.attach")
    streams = members.record("streams")
    oldest = {name: streams.record(name).integer("oldest") for name in STREAMS if name in streams}
    return Attached(members.text("id", ID_LIMIT), members.integer("pid", 0), members.flag("running"), oldest)


def decode_event(notification: Notification) -> ProcessEvent:
    """Read a notification of a process.

    Raises:
        AgentError: It is none, or not what it should be.
    """
    members = Members(notification.params, notification.method)
    match notification.method:
        case "process.output":
            data = members.content("data", OUTPUT_PIECE_LIMIT)
            if not data:
                raise members.wrong("data")
            return Output(_stream(members), members.integer("offset"), data)
        case "process.gap":
            return Gap(_stream(members), members.integer("offset"), members.integer("length", 1))
        case "process.exit":
            totals = {name: members.integer(name) for name in STREAMS if name in members}
            return Exit(decode_ending(members), totals)
    raise AgentError(f"the agent sent the unknown notification {notification.method[:80]!r}")


def decode_waited(result: object) -> Exit | None:
    """Read the result of `process.wait`: how it ended, or None while it runs.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "process.wait")
    if members.flag("running"):
        return None
    totals = {name: members.integer(name) for name in STREAMS if name in members}
    return Exit(decode_ending(members), totals)


def decode_processes(result: object) -> tuple[ProcessEntry, ...]:
    """Read the result of `process.list`.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "process.list").items("processes", _decode_entry, PROCESSES_LIMIT)


def decode_written(result: object) -> int:
    """Read the result of `process.stdin`: how many bytes the process was given.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "process.stdin").integer("written")


def _decode_entry(entry: object) -> ProcessEntry:
    members = Members(entry, "process.list")
    return ProcessEntry(
        members.text("id", ID_LIMIT),
        members.integer("pid", 0),
        members.text("command"),
        members.flag("running"),
    )


def _stream(members: Members) -> str:
    name = members.text("stream", 16)
    if name not in STREAMS:
        raise members.wrong("stream")
    return name
