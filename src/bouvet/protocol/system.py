"""The guest itself: what it is, how it does, and changes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bouvet.errors import AgentError
from bouvet.protocol.members import INTEGER_LIMIT, Members

LINES_LIMIT = 1 << 16
"""Lines of the log that one answer holds at most."""

PARTS_LIMIT = 64
"""Parts of a resume that one answer holds at most."""


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What a guest is.

    Attributes:
        agent: The agent's version.
        protocol: The protocol's version.
        kernel: The kernel's release.
        architecture: `x86_64` or `aarch64`.
        hostname: The host name.
        boot_id: A name of this boot; unique.
        machine_id: The machine's id; empty before the first boot has made one.
        uptime: Seconds since the kernel began.
        image: What the image says of itself, unchecked; None if it says nothing.
    """

    agent: str
    protocol: int
    kernel: str
    architecture: str
    hostname: str
    boot_id: str
    machine_id: str
    uptime: float
    image: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """What `system.resume` has done; a part is `clock`, `entropy`, `machine_id`, `hostname` or `network`.

    Attributes:
        changed: The parts that are changed.
        failed: Why the others could not be, by part; a call with the same token tries them again.
        repeated: Whether the token is the one of the call before.
    """

    changed: frozenset[str]
    failed: Mapping[str, str]
    repeated: bool


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines of the guest's journal.

    Attributes:
        lines: The lines, the oldest first.
        cursor: Where the next lines begin; None if there were none.
        more: Whether there were older ones that fit the request.
    """

    lines: tuple[str, ...]
    cursor: str | None
    more: bool


def decode_info(result: object) -> SystemInfo:
    """Read the result of `system.info`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "system.info")
    return SystemInfo(
        members.text("agent", 256),
        members.integer("protocol", 1),
        members.text("kernel", 256),
        members.text("architecture", 64),
        members.text("hostname", 256),
        members.text("boot_id", 64),
        members.optional_text("machine_id", 64) or "",
        members.number("uptime_ms") / 1000,
        members.record("image").raw() if "image" in members else None,
    )


def decode_step(result: object) -> int:
    """Read the result of `system.set_clock`: how far the clock was set forward, in nanoseconds.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "system.set_clock").integer("step_ns", -INTEGER_LIMIT)


def decode_resumed(result: object) -> Resumed:
    """Read the result of `system.resume`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "system.resume")
    return Resumed(
        frozenset(members.items("changed", _decode_text, PARTS_LIMIT)),
        dict(members.items("failed", _decode_failure, PARTS_LIMIT)),
        members.flag("repeated"),
    )


def decode_logs(result: object) -> LogLines:
    """Read the result of `system.logs`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "system.logs")
    return LogLines(
        members.items("lines", _decode_text, LINES_LIMIT),
        members.optional_text("cursor", 1024),
        members.flag("more"),
    )


def decode_metrics(result: object) -> Mapping[str, Any]:
    """Read the result of `system.metrics`: an object, its members unchecked.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "system.metrics").raw()


def _decode_failure(value: object) -> tuple[str, str]:
    members = Members(value, "system.resume")
    return members.text("part", 64), members.text("message")


def _decode_text(value: object) -> str:
    if not isinstance(value, str):
        raise AgentError("the agent's list of texts is not what the protocol says")
    return value
