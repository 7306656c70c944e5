"""The user's API: a running guest, to run commands and code in."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bouvet.protocol import CommandOptions, DirectoryEntry, ExecResult
from bouvet.sandbox.client import AgentClient
from bouvet.sandbox.connection import CALL_SECONDS, ConnectionLost
from bouvet.sandbox.files import Files
from bouvet.sandbox.processes import ProcessOptions, RemoteProcess
from bouvet.sandbox.system import System
from bouvet.sandbox.transport import dial
from bouvet.vm.machine import BootTimings, Machine

CONNECT_SECONDS = 10.0
"""How long a further connection may take: an agent that is being restarted is not there for a moment."""

NO_SYSTEMD = "no systemd"
"""The state of a system whose init is another."""

END_SECONDS = 1.5
"""How long a machine's end is waited for when the connection to its agent was lost."""


class Sandbox:
    """A running machine whose agent answers.

    What happens in it is the guest's: a result may be anything. When the machine ends while something is
    asked of it, the error says how it ended.

    Args:
        machine: The machine.
        client: A client of its agent; the connection is shared by all who use it.
        timings: When its boot came how far, the agent's first answer included.
    """

    def __init__(self, machine: Machine, client: AgentClient, timings: BootTimings) -> None:
        self.machine = machine
        self.client = client
        self._answered = timings

    @property
    def timings(self) -> BootTimings:
        """When its boot came how far: the agent's part, and what is known of the rest by now.

        An agent may answer before the console has told of what came before it.
        """
        answered = self._answered
        return replace(self.machine.timings, agent=answered.agent, answer=answered.answer)

    @property
    def files(self) -> Files:
        """Files, streams of them, and changes to them."""
        return self.client.files

    @property
    def system(self) -> System:
        """The guest itself."""
        return self.client.system

    def run(
        self, command: str, options: CommandOptions | None = None, *, timeout: float | None = None
    ) -> ExecResult:
        """Run a command by `sh -c`, as root in `/root`; see `AgentClient.exec`.

        Raises:
            CallTimeout: It took longer than `timeout` seconds, and was cancelled.
            MachineError: The machine has ended.
            AgentError: There is no result.
        """
        with self._explaining():
            return self.client.exec(command, options, timeout=timeout)

    def run_code(
        self,
        language: str,
        code: str,
        options: CommandOptions | None = None,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run code in a language; see `AgentClient.exec_code`.

        Raises:
            CallTimeout: It took longer than `timeout` seconds, and was cancelled.
            MachineError: The machine has ended.
            AgentError: There is no result.
        """
        with self._explaining():
            return self.client.exec_code(language, code, options, timeout=timeout)

    @contextmanager
    def start(
        self, command: str | Sequence[str], options: ProcessOptions | None = None
    ) -> Iterator[RemoteProcess]:
        """Start a process, on a connection of its own, and yield it; it is killed at the end of the block.

        Args:
            command: A line for `sh -c`, or a program with its arguments.
            options: More that it is given.

        Raises:
            RequestRefused: It cannot be started; `errno` says why.
            MachineError: The machine has ended, here or in the block.
            AgentError: The agent does not accept the connection.
        """
        with (
            self._explaining(),
            self.another_client() as client,
            client.processes.start(command, options) as process,
        ):
            yield process

    def read_file(self, path: str, *, timeout: float = CALL_SECONDS) -> str:
        """Return a file's content: UTF-8 text of at most 10 MiB; see `AgentClient.read_file`."""
        with self._explaining():
            return self.client.read_file(path, timeout=timeout)

    def write_file(self, path: str, content: str, *, timeout: float = CALL_SECONDS) -> None:
        """Write a file of at most 10 MiB; see `AgentClient.write_file`."""
        with self._explaining():
            self.client.write_file(path, content, timeout=timeout)

    def list_dir(self, path: str, *, timeout: float = CALL_SECONDS) -> tuple[DirectoryEntry, ...]:
        """Return a directory's entries, sorted by name; see `AgentClient.list_dir`."""
        with self._explaining():
            return self.client.list_dir(path, timeout=timeout)

    def system_state(self, *, timeout: float) -> str:
        """Wait until the guest's systemd has started everything.

        The agent answers before systemd begins, so what needs the system's services waits for this.

        Args:
            timeout: Seconds.

        Returns:
            What `systemctl is-system-running` says: `running`, `degraded` and so on; `no systemd` at once
            where there is none.

        Raises:
            CallTimeout: It took longer.
        """
        # Until systemd listens, systemctl says "offline" and does not wait.
        command = (
            "test -d /run/systemd/system || command -v systemctl > /dev/null || "
            f"{{ echo {NO_SYSTEMD}; exit; }}; "
            "while state=$(systemctl is-system-running --wait 2>/dev/null);"
            ' [ "${state:-offline}" = offline ]; do sleep 0.05; done; echo "$state"'
        )
        return self.run(command, timeout=timeout).stdout.strip()

    @contextmanager
    def another_client(self) -> Iterator[AgentClient]:
        """Yield a client over a connection of its own, closed at the end of the block.

        Raises:
            AgentError: The agent does not accept it.
        """
        with connect_client(self.machine, deadline=time.monotonic() + CONNECT_SECONDS) as client:
            yield client

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Tell a lost connection from a machine that has ended."""
        try:
            yield
        except ConnectionLost as error:
            end = self.machine.wait(END_SECONDS)
            if end is None:
                raise
            raise end.error() from error


def connect_client(machine: Machine, *, deadline: float) -> AgentClient:
    """Return a client of a machine's agent as soon as that listens.

    Args:
        machine: A machine that was started.
        deadline: When to give up, in seconds of `time.monotonic`.

    Raises:
        NotListening: The agent did not listen until then, or the machine has ended.
    """

    def connect(deadline: float) -> socket.socket:
        return dial(
            machine.socket_path,
            deadline=deadline,
            ended=lambda seconds: machine.wait(seconds) is not None,
        )

    connection = connect(deadline)
    return AgentClient(connection, connect=lambda: connect(time.monotonic() + CONNECT_SECONDS))
