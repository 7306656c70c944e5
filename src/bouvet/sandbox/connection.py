"""A connection to an agent: requests and what answers them, and what the agent tells without being asked.

One thread reads the connection. It hands each response to the call that waits for it, so that any number
of threads may call at once, and each notification to who has subscribed to its subject. Nothing that the
guest sends is believed: lines are bounded, a message that nobody waits for ends the connection, and so
does everything that is not of the protocol.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from bouvet.errors import AgentError
from bouvet.protocol import (
    LineSplitter,
    Notification,
    Response,
    decode_cancelled,
    decode_message,
    encode_notification,
    encode_request,
)

CALL_SECONDS = 60.0
"""How long a call waits for its response, unless told otherwise."""

_PIECE = 1 << 18

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

Subject = tuple[str, str]
"""What a notification is about: the name of its kind's identifier, and that identifier."""

_SUBJECTS = {
    "process.output": "id",
    "process.gap": "id",
    "process.exit": "id",
    "file.changed": "watch",
    "file.changes_lost": "watch",
}
"""The member of each notification that says what it is about."""


class CallFailed(AgentError):
    """A request got no response.

    Attributes:
        sent: Whether the guest may have got the request, and so may have carried it out.
    """

    def __init__(self, message: str, *, sent: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class CallTimeout(CallFailed):
    """A request got no response in time, and was cancelled. The connection can be used on."""


class ConnectionLost(CallFailed):
    """The other side of the connection is gone: the agent, or its machine, or what was between."""


@dataclass(frozen=True, slots=True)
class Break:
    """Why a connection cannot be used any more."""

    why: str
    failure: type[CallFailed] = CallFailed


class Subscriber(Protocol):
    """Who is told of a subject."""

    @property
    def discarding(self) -> bool:
        """Whether it drops what it is told: another may take its place."""
        ...

    def take(self, notification: Notification) -> None:
        """Take what is told; the connection's reader calls this, and reads nothing more meanwhile.

        Raises:
            AgentError: It is not of the protocol: the connection ends.
        """
        ...

    def end(self, broken: Break) -> None:
        """Learn that nothing more will be told. It may come twice, and from any thread."""
        ...


class PendingCall(Generic[Result_co]):
    """A request under way.

    Attributes:
        number: The request's `id`.
        method: Its method.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        method: str,
        decode: Callable[[object], Result_co],
        on_response: Callable[[Any], None] | None,
    ) -> None:
        self.number = number
        self.method = method
        self.done = threading.Event()
        self._connection = connection
        self._decode = decode
        self._on_response = on_response
        self._response: Response | None = None

    def result(self, timeout: float | None = CALL_SECONDS) -> Result_co:
        """Wait for the response and return the result. A call that is given up is cancelled.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            CallTimeout: There was none in time.
            CallFailed: There will be none.
            RequestRefused: The agent answered with an error.
            AgentError: The result is not what it should be.
        """
        waited = False
        try:
            waited = self.done.wait(timeout)
        finally:
            # Also when Ctrl-C ends the wait.
            if not waited:
                self._connection.abandon(self)
        # The response may have come after all.
        if self._response is None and not self.done.is_set():
            raise CallTimeout(f"the agent did not answer {self.method} within {timeout:g} s", sent=True)
        if self._response is None:
            broken = self._connection.broken
            assert broken is not None
            raise broken.failure(f"{broken.why}; {self.method} was sent, not answered", sent=True)
        if self._response.error is not None:
            raise self._response.error
        return self._decode(self._response.result)

    def cancel(self, *, timeout: float = CALL_SECONDS) -> bool:
        """Ask the agent to end the request's work; `result` then raises `RequestRefused`.

        Returns:
            Whether there was something left to end.

        Raises:
            CallFailed: No response came.
        """
        asked = self._connection.submit("cancel", {"id": self.number}, decode_cancelled, timeout=timeout)
        return asked.result(timeout)

    def deliver(self, response: Response) -> None:
        """Take the response. The connection's reader calls this."""
        if self._on_response is not None and response.error is None:
            self._on_response(response.result)
        self._response = response


class Connection:
    """A connected socket, which it owns, to an agent. Safe for use by many threads.

    Args:
        connection: A connected stream socket: the agent's first byte is the first message's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(None)
        self._numbers = itertools.count(1)
        self._calls: dict[int, PendingCall[Any]] = {}
        self._abandoned: dict[int, PendingCall[Any]] = {}
        self._subscribers: dict[Subject, Subscriber] = {}
        self._state = threading.Lock()
        self._sending = threading.Lock()
        self._broken: Break | None = None
        self._reader = threading.Thread(target=self._read, name="agent client", daemon=True)
        self._reader.start()

    @property
    def broken(self) -> Break | None:
        """Why the connection cannot be used any more; None if it can."""
        return self._broken

    def call(
        self,
        method: str,
        params: Mapping[str, Any],
        decode: Callable[[object], Result],
        *,
        timeout: float | None = CALL_SECONDS,
        on_response: Callable[[Any], None] | None = None,
    ) -> Result:
        """Send a request, wait, and return its decoded result; see `submit` and `PendingCall.result`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        call = self.submit(method, params, decode, timeout=timeout, on_response=on_response)
        try:
            return call.result(_left(deadline))
        except CallTimeout:
            raise CallTimeout(f"the agent did not answer {method} within {timeout:g} s", sent=True) from None

    def submit(
        self,
        method: str,
        params: Mapping[str, Any],
        decode: Callable[[object], Result],
        *,
        timeout: float | None = CALL_SECONDS,
        on_response: Callable[[Any], None] | None = None,
    ) -> PendingCall[Result]:
        """Send a request.

        Args:
            method: Its method.
            params: Its parameters.
            decode: Checks the result and returns what the caller gets; raises `AgentError`.
            timeout: Seconds that the sending may take; None is for ever.
            on_response: Is called with the result before any later message is looked at, by the reader:
                to subscribe to what the result announces. It is called for an abandoned request as well.

        Raises:
            CallFailed: It was not sent.
            AgentError: It cannot be encoded.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        number = next(self._numbers)
        line = encode_request(number, method, params)
        call = PendingCall(self, number, method, decode, on_response)
        with self._state:
            if self._broken is not None:
                raise self._broken.failure(f"{self._broken.why}; {method} was not sent", sent=False)
            self._calls[number] = call
        try:
            self._send(line, method, deadline)
        except BaseException:
            with self._state:
                self._calls.pop(number, None)
            raise
        return call

    def abandon(self, call: PendingCall[Any]) -> None:
        """Stop waiting for a response, which may still come, and ask the agent to spare itself the work."""
        with self._state:
            if self._calls.pop(call.number, None) is None:
                return
            self._abandoned[call.number] = call
        with contextlib.suppress(CallFailed):
            self._send(encode_notification("cancel", {"id": call.number}), "cancel", time.monotonic())

    def subscribe(self, subject: Subject, subscriber: Subscriber) -> None:
        """Hand all notifications of a subject to a subscriber, who has to be the only one.

        Some may come after the agent was asked for no more, so who wants no more goes on dropping them.
        """
        with self._state:
            known = self._subscribers.get(subject)
            if known is not None and not known.discarding:
                raise AgentError(f"the agent gave the name {subject[1]!r} twice")
            self._subscribers[subject] = subscriber
            broken = self._broken
        if broken is not None:
            subscriber.end(broken)

    def unsubscribe(self, subject: Subject) -> None:
        """Expect no more notifications of a subject: its last one has come."""
        with self._state:
            self._subscribers.pop(subject, None)

    def close(self) -> None:
        """Close the connection. Calls that wait for a response fail."""
        self._break(Break("the connection was closed"))
        self._reader.join()
        self._connection.close()

    def _send(self, line: bytes, method: str, deadline: float | None) -> None:
        """Write a message. A part of one would spoil the stream, so being stopped there ends the connection.

        The agent acts on whole lines only: whatever stops this, the message was not sent.
        """
        left = _left(deadline)
        if not self._sending.acquire(timeout=-1 if left is None else left):
            raise CallTimeout(f"other requests are being sent; {method} was not", sent=False)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._send_some(rest, deadline) :]
        except TimeoutError:
            raise CallTimeout(f"the agent does not read; {method} was not sent", sent=False) from None
        except OSError as error:
            why = f"the connection to the agent was lost: {error.strerror}"
            self._break(Break(why, ConnectionLost))
            raise ConnectionLost(f"{why}; {method} was not sent", sent=False) from error
        finally:
            if 0 < len(rest) < len(line):
                self._break(Break(f"the agent was sent a part of {method} only"))
            self._sending.release()

    def _send_some(self, rest: memoryview, deadline: float | None) -> int:
        """Send what the socket takes; wait until it takes something.

        The reader blocks on the same socket, so that its timeout must stay as it is.
        """
        while True:
            try:
                return self._connection.send(rest, socket.MSG_DONTWAIT)
            except BlockingIOError:
                left = _left(deadline)
                poll = select.poll()
                poll.register(self._connection, select.POLLOUT)
                if not poll.poll(None if left is None else left * 1000):
                    raise TimeoutError from None

    def _read(self) -> None:
        """Hand out messages until the connection ends."""
        splitter = LineSplitter()
        try:
            while piece := self._connection.recv(_PIECE):
                for line in splitter.feed(piece):
                    message = decode_message(line)
                    if isinstance(message, Response):
                        self._deliver(message)
                    else:
                        self._tell(message)
            self._break(Break("the agent closed the connection", ConnectionLost))
        except AgentError as error:
            self._break(Break(error.message))
        except OSError as error:
            self._break(Break(f"the connection to the agent was lost: {error.strerror}", ConnectionLost))
        finally:
            # Without this thread nobody would ever be answered (it may have run out of memory).
            self._break(Break("what the agent sent could not be read"))

    def _deliver(self, response: Response) -> None:
        number = response.request
        if number is None and response.error is not None:
            raise AgentError(f"the agent could not read a request: {response.error.message}")
        if not isinstance(number, int):
            raise AgentError("the agent answered a request that nobody sent")
        with self._state:
            call = self._calls.get(number) or self._abandoned.get(number)
        if call is None:
            raise AgentError("the agent answered a request that nobody sent, or one twice")
        # The call stays known meanwhile, so that whoever waits for it learns of what this may raise.
        call.deliver(response)
        with self._state:
            self._calls.pop(number, None)
            self._abandoned.pop(number, None)
        call.done.set()

    def _tell(self, notification: Notification) -> None:
        identifier = notification.params.get(_SUBJECTS.get(notification.method, ""))
        if isinstance(identifier, bool) or not isinstance(identifier, int | str):
            raise AgentError(f"the agent sent the notification {notification.method[:80]!r} about nothing")
        with self._state:
            subscriber = self._subscribers.get(subject_of(notification.method, identifier))
        if subscriber is None:
            raise AgentError(f"the agent sent the notification {notification.method[:80]!r} to nobody")
        subscriber.take(notification)

    def _break(self, broken: Break) -> None:
        """End the connection: every call that waits fails, and every later one."""
        with self._state:
            if self._broken is None:
                self._broken = broken
            calls = list(self._calls.values())
            subscribers = list(self._subscribers.values())
            self._calls.clear()
            self._abandoned.clear()
            self._subscribers.clear()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for call in calls:
            call.done.set()
        for subscriber in subscribers:
            subscriber.end(self._broken)


def subject_of(method: str, identifier: int | str) -> Subject:
    """Return what a notification of this method with this identifier is about."""
    return method.partition(".")[0], str(identifier)


def _left(deadline: float | None) -> float | None:
    """Return the seconds that are left; None is for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
