"""Progress events: what the library reports while it works.

The library never prints. A caller passes a `Listener`; the CLI renders what arrives. Events may come
from several threads at once, so a listener must be safe to call from any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepWaits:
    """A step begins when those that it comes `after` are done."""

    step: str
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins. `reason` says why it runs (for example "not cached")."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step has come further. `fraction` is between 0 and 1, None where it is not known."""

    step: str
    message: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step is done, after `seconds` of wall time; `outcome` says what came of it, in a few words."""

    step: str
    seconds: float
    outcome: str
    cached: bool = False


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """One line, without its newline, that a tool printed during a step."""

    step: str
    line: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know that is not an error."""

    message: str


Event = StepWaits | StepStarted | StepProgress | StepFinished | ToolOutput | Note
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of callers that want no progress."""
    del event
