"""Clients of the real agent, on a Unix socket, and of guests that mean harm."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from bouvet.sandbox import AgentClient, connect_unix
from tests.protocol.conftest import Agent, agent, binary, start_agent

__all__ = ["agent", "binary", "start_agent"]  # fixtures of the protocol's tests, which these tests need too

Guest = Callable[[socket.socket], object]
Meet = Callable[[Guest], AgentClient]


@pytest.fixture
def client(agent: Agent) -> Iterator[AgentClient]:
    """A client of a running agent."""
    with AgentClient(connect_unix(agent.path), connect=lambda: connect_unix(agent.path)) as client:
        yield client


@pytest.fixture
def meet() -> Iterator[Meet]:
    """Connect a client with a guest that does as a function says, in a thread, and then hangs up."""
    with contextlib.ExitStack() as stack:

        def start(guest: Guest) -> AgentClient:
            ours, theirs = socket.socketpair()

            def live() -> None:
                # The client may hang up in the middle of it.
                with theirs, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    guest(theirs)

            thread = threading.Thread(target=live)
            thread.start()
            stack.callback(thread.join)
            return stack.enter_context(AgentClient(ours))

        yield start
