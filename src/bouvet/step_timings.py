"""When each step of a build ran, and what it waited for; told from the events alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bouvet.events import Event, Listener, StepFinished, StepStarted, StepWaits


@dataclass(frozen=True, slots=True)
class StepTiming:
    """A step that has ended.

    Attributes:
        step: Its name.
        start: When it began, in seconds since the build began.
        seconds: How long it took.
        cached: Whether it had nothing to do.
        outcome: What came of it, in a few words.
        waited: How many seconds it waited for other steps.
        waited_for: The one of those that ended last; None if it depends on none.
    """

    step: str
    start: float
    seconds: float
    cached: bool
    outcome: str
    waited: float
    waited_for: str | None

    @property
    def end(self) -> float:
        """When it ended, in seconds since the build began."""
        return self.start + self.seconds


@dataclass
class _Open:
    """What is known of a step that has not ended."""

    waiting_since: float | None = None
    after: tuple[str, ...] = ()
    started: float | None = None


@dataclass
class StepRecorder:
    """A listener that keeps the times of steps, and passes every event on.

    Attributes:
        listener: Gets the events.
        clock: The time in seconds, of which only differences count.
    """

    listener: Listener
    clock: Callable[[], float] = time.monotonic
    _timings: list[StepTiming] = field(default_factory=list)
    _open: dict[str, _Open] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            now = self.clock() - self._began
            match event:
                case StepWaits(step, after):
                    self._open[step] = _Open(waiting_since=now, after=after)
                case StepStarted(step):
                    self._open.setdefault(step, _Open()).started = now
                case StepFinished():
                    self._finish(event, now)
                case _:
                    pass
        self.listener(event)

    def timings(self) -> tuple[StepTiming, ...]:
        """Return the steps that have ended, by their start."""
        with self._lock:
            return tuple(sorted(self._timings, key=lambda timing: timing.start))

    def _finish(self, event: StepFinished, now: float) -> None:
        known = self._open.pop(event.step, _Open())
        # What the cache has is not announced.
        start = known.started if known.started is not None else max(0.0, now - event.seconds)
        ended = {timing.step: timing.end for timing in self._timings}
        last = max((step for step in known.after if step in ended), key=ended.__getitem__, default=None)
        waited = 0.0 if known.waiting_since is None else max(0.0, start - known.waiting_since)
        timing = StepTiming(event.step, start, now - start, event.cached, event.outcome, waited, last)
        self._timings.append(timing)
