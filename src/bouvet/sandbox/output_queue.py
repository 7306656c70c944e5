"""The output of a process in a guest, on its way to who takes it.

It waits in a queue of bounded size. While the queue is full nothing more is read from the connection, so
that the agent, and by it the process, waits: no byte is lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping

from bouvet.errors import AgentError
from bouvet.protocol import Exit, Gap, Notification, Output, ProcessEvent, decode_event
from bouvet.sandbox.connection import Break, Connection, Subject, subject_of

QUEUE_LIMIT = 4 << 20
"""Bytes of output that wait for their reader at most; with more, the process waits."""

EVENT_COST = 256
"""What a waiting event counts beside its bytes: a guest may send many that have few."""


class OutputQueue:
    """A process's events on their way from the connection's reader to who takes them.

    Each byte of a stream comes once and in order, or a gap says that it does not.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._events: deque[ProcessEvent] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._next: dict[str, int] = {}
        self.discarding = False
        self._broken: Break | None = None
        self.taken: dict[str, int] = {}
        self.exit: Exit | None = None
        self.subject: Subject | None = None

    def begin(self, identifier: str, offsets: Mapping[str, int]) -> None:
        """Take all that comes for a process, from these offsets on. The connection's reader calls this."""
        self._next = dict(offsets)
        self.taken = dict(offsets)
        self.subject = subject_of("process.output", identifier)
        self._connection.subscribe(self.subject, self)

    def take(self, notification: Notification) -> None:
        """Queue an event; wait while the queue is full."""
        event = decode_event(notification)
        if not self.discarding:
            self._check(event)
        size = EVENT_COST + (len(event.data) if isinstance(event, Output) else 0)
        with self._changed:
            self._changed.wait_for(
                lambda: self.discarding or self._broken or self._size + size <= QUEUE_LIMIT or not self._size
            )
            if isinstance(event, Exit):
                self.exit = event
                if self.subject is not None:
                    self._connection.unsubscribe(self.subject)
            if not self.discarding:
                self._events.append(event)
                self._size += size
            self._changed.notify_all()

    def _check(self, event: ProcessEvent) -> None:
        """Refuse what cannot follow what has come."""
        if isinstance(event, Exit):
            return
        awaited = self._next.get(event.stream, 0)
        if event.offset != awaited:
            raise AgentError(
                f"the agent sent output from byte {event.offset} on where byte {awaited} has to follow"
            )
        self._next[event.stream] = awaited + (event.length if isinstance(event, Gap) else len(event.data))

    def next(self, deadline: float | None) -> ProcessEvent | None:
        """Return the next event; None if there is none until the deadline.

        Raises:
            CallFailed: The connection has ended.
            AgentError: All was told, or nobody wanted it told.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._events or self._broken or self.discarding or self.exit,
                None if deadline is None else max(0.0, deadline - time.monotonic()),
            )
            if not self._events:
                if self._broken is not None and self.exit is None:
                    raise self._broken.failure(f"{self._broken.why}; the process may run on", sent=True)
                if self.discarding or self.exit is not None:
                    raise AgentError("nothing more is told of the process")
                return None
            event = self._events.popleft()
            self._size -= EVENT_COST
            if isinstance(event, Output):
                self._size -= len(event.data)
                self.taken[event.stream] = event.offset + len(event.data)
            elif isinstance(event, Gap):
                self.taken[event.stream] = event.offset + event.length
            self._changed.notify_all()
            return event

    def discard(self) -> None:
        """Drop what waits and what comes."""
        with self._changed:
            self.discarding = True
            self._events.clear()
            self._size = 0
            self._changed.notify_all()

    def end(self, broken: Break) -> None:
        """Learn that the connection has ended: what has come can still be taken."""
        with self._changed:
            self._broken = self._broken or broken
            self._changed.notify_all()
