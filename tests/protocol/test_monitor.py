"""An agent that inherits its socket, and the monitor that starts another when it crashes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.protocol.conftest import SECONDS, Connection

READY, OVER = b"+", b"."
"""What an agent says on its life line."""


@dataclass(frozen=True)
class Watched:
    """An agent as the machine's first program starts it, and its life line's reading end."""

    path: Path
    agent: subprocess.Popen[bytes]
    listening: socket.socket
    lifeline: int

    def connect(self) -> contextlib.closing[Connection]:
        return contextlib.closing(Connection(self.path))


def launch(binary: Path, arguments: Sequence[str], third: int, fourth: int) -> subprocess.Popen[bytes]:
    """Start the agent's program with two descriptors under the numbers that it expects them at."""
    return subprocess.Popen(
        [
            "bash",
            "-c",
            f'exec "$0" "$@" 3<&{third} 4<&{fourth} {third}<&- {fourth}<&-',
            str(binary),
            *arguments,
        ],
        pass_fds=(third, fourth),
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def watched(binary: Path, tmp_path: Path) -> Iterator[Watched]:
    """A running agent that has inherited its socket."""
    path = tmp_path / "inherited.sock"
    lifeline, spoken = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(path))
        listening.listen()
        agent = launch(binary, ["--listen", f"unix:{path}", "--inherit"], listening.fileno(), spoken)
        os.close(spoken)
        try:
            yield Watched(path, agent, listening, lifeline)
        finally:
            os.close(lifeline)
            agent.kill()
            agent.wait(SECONDS)


@pytest.fixture
def monitor(binary: Path, watched: Watched) -> Iterator[subprocess.Popen[bytes]]:
    """The agent's monitor."""
    arguments = ["--listen", f"unix:{watched.path}", "--monitor"]
    process = launch(binary, arguments, watched.listening.fileno(), watched.lifeline)
    yield process
    if process.poll() is None:
        # Any of its threads may have started the agent.
        children = [
            int(child)
            for thread in Path(f"/proc/{process.pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
        process.kill()
        for child in children:
            os.kill(child, signal.SIGKILL)
    process.wait(SECONDS)


def agent_of(connection: Connection) -> int:
    """Return the process id of the agent that serves a connection."""
    return int(connection.run("echo $PPID")[1])


def test_an_inherited_socket_is_served(watched: Watched) -> None:
    # Whoever connects before the agent runs waits, and is answered.
    with watched.connect() as early:
        assert os.read(watched.lifeline, 1) == READY
        assert early.call("ping") == {"pong": True}
        # What the agent has inherited, its commands do not.
        assert early.run("test -e /proc/self/fd/3 || test -e /proc/self/fd/4") == (1, "", "")
        assert early.run("cat /proc/$PPID/comm") == (0, "bouvet-agent\n", "")
        watched.agent.terminate()
        assert os.read(watched.lifeline, 1) == OVER
    assert watched.agent.wait(SECONDS) == 0


def test_a_crashed_agent_is_followed_by_another(watched: Watched, monitor: subprocess.Popen[bytes]) -> None:
    with watched.connect() as connection:
        seen = {agent_of(connection)}
        assert seen == {watched.agent.pid}
    for _ in range(2):
        with watched.connect() as connection:
            victim = agent_of(connection)
            os.kill(victim, signal.SIGKILL)
            with pytest.raises((EOFError, ConnectionError)):
                connection.read_line()
        # Who connects meanwhile is not refused, but waits.
        with watched.connect() as connection:
            seen.add(agent_of(connection))
            monitored = Path(f"/proc/{agent_of(connection)}/status").read_text()
            assert f"PPid:\t{monitor.pid}\n" in monitored
    assert len(seen) == 3
    assert monitor.poll() is None


def test_an_agent_that_was_asked_to_end_is_followed_by_none(
    watched: Watched, monitor: subprocess.Popen[bytes]
) -> None:
    with watched.connect() as connection:
        connection.call("ping")
    watched.agent.kill()
    with watched.connect() as connection:
        os.kill(agent_of(connection), signal.SIGTERM)
    assert monitor.wait(SECONDS) == 0
