"""What a command may be given beside its line, and what is known of its end."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bouvet.errors import AgentError
from bouvet.protocol.members import Members

MAX_OUTPUT = 16 << 20
"""Bytes of each stream that a result holds at most, however it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """How a command or code is run. What is not given is as the agent has it.

    Attributes:
        arguments: `$1` and so on of a command's shell; the program's arguments for code.
        cwd: The directory that it starts in; by default the user's home.
        environment: Variables, on top of the agent's default environment.
        stdin: What it reads from standard input; nothing by default.
        user: A name or a number of the guest's users, with its groups and home; root by default.
        time_limit: Seconds after which the guest ends it with all that it has started.
        max_output: Bytes of each stream that the result holds, 0 to 16 MiB; 1 MiB by default.
        tied: Whether it ends with the connection that it was asked for on.
    """

    arguments: tuple[str, ...] = ()
    cwd: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    user: str | int | None = None
    time_limit: float | None = None
    max_output: int | None = None
    tied: bool = False

    def params(self) -> dict[str, Any]:
        """Return the request's parameters. Contents are in base64, so that every byte is kept."""
        params = command_params(self.arguments, self.cwd, self.environment, self.user, self.time_limit)
        if self.stdin is not None:
            params["stdin"] = base64.b64encode(self.stdin).decode()
        if self.max_output is not None:
            params["max_output"] = self.max_output
        if self.tied:
            params["tie"] = True
        return params | {"encoding": "base64"}


def command_params(
    arguments: tuple[str, ...],
    cwd: str | None,
    environment: Mapping[str, str],
    user: str | int | None,
    time_limit: float | None,
) -> dict[str, Any]:
    """Return the parameters that commands and processes share, without those that are not given.

    Raises:
        AgentError: The time is over before it begins.
    """
    if time_limit is not None and time_limit <= 0:
        raise AgentError(f"a time limit of {time_limit:g} s is not possible")
    params: dict[str, Any] = {}
    if arguments:
        params["args"] = list(arguments)
    if cwd is not None:
        params["cwd"] = cwd
    if environment:
        params["env"] = dict(environment)
    if user is not None:
        params["user"] = user
    if time_limit is not None:
        params["timeout_ms"] = max(1, round(time_limit * 1000))
    return params


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command or a process ended.

    Attributes:
        exit_code: Its exit status; 128 plus the signal's number if a signal ended it.
        signal: The name of the signal that ended it, such as `SIGKILL`; None if none did.
        timed_out: Whether it was ended because its time was over.
        oom_killed: Whether the guest's kernel killed any of it for want of memory.
        duration: How long it ran, in seconds.
    """

    exit_code: int
    signal: str | None
    timed_out: bool
    oom_killed: bool
    duration: float


def decode_ending(members: Members) -> Ending:
    """Read how a command or a process ended.

    Raises:
        AgentError: It is something else.
    """
    return Ending(
        members.integer("exit_code", -1, 255),
        members.optional_text("signal", 32),
        members.flag("timed_out"),
        members.flag("oom_killed"),
        members.number("duration_ms") / 1000,
    )
