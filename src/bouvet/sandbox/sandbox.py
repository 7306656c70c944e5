"""The user's API: a running guest, to run commands and code in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bouvet.protocol import ExecResult
from bouvet.sandbox.client import AgentClient
from bouvet.sandbox.transport import connect
from bouvet.vm.machine import BootTimings, Machine


class Sandbox:
    """A running machine whose agent answers.

    Attributes:
        machine: The machine.
        client: A client of its agent; the connection is shared by all who use it.
        timings: When its boot came how far.
    """

    def __init__(self, machine: Machine, client: AgentClient, timings: BootTimings) -> None:
        self.machine = machine
        self.client = client
        self.timings = timings

    def run(self, command: str, *, timeout: float | None = None) -> ExecResult:
        """Run a command by `sh -c`, as root in `/root`; see `AgentClient.exec`."""
        return self.client.exec(command, timeout=timeout)

    def run_code(self, language: str, code: str, *, timeout: float | None = None) -> ExecResult:
        """Run code in a language; see `AgentClient.exec_code`."""
        return self.client.exec_code(language, code, timeout=timeout)

    @contextmanager
    def another_client(self) -> Iterator[AgentClient]:
        """Yield a client over a connection of its own, closed at the end of the block.

        Raises:
            AgentError: The agent does not accept it.
        """
        with AgentClient(connect(self.machine.socket_path)) as client:
            yield client
