"""An agent takes the listening socket over from another: two real processes on Unix sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.protocol.conftest import SECONDS, Connection

Start = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the agents hand over."""
    return tmp_path / "handover" / "agent.sock"


@pytest.fixture
def start_successor(start_agent: Start, place: Path) -> Start:
    """Start agents that all listen on one socket, each taking it over from the one before."""

    def start() -> Any:
        return start_agent(arguments=["--handover", str(place)])

    return start


def agent_of(connection: Connection) -> int:
    """Return the process id of the agent that serves a connection."""
    return int(connection.run("echo $PPID")[1])


class Callers:
    """Threads that connect, ask and leave, again and again; a failure of any of them is kept."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        self.answers = 0
        self.failures: list[Exception] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                connection = Connection(self._path)
                try:
                    assert connection.call("ping") == {"pong": True}
                    self.answers += 1
                finally:
                    connection.close()
            except Exception as error:  # noqa: BLE001  (the test shows it)
                self.failures.append(error)
                return


def test_no_connection_fails_while_agents_succeed_each_other(start_successor: Start) -> None:
    agents = [start_successor()]
    with Callers(agents[0].path, 4) as callers:
        for _ in range(5):
            before = callers.answers
            agents.append(start_successor())
            assert agents[-2].process.wait(SECONDS) == 0
            deadline = time.monotonic() + SECONDS
            while callers.answers < before + 100 and not callers.failures and time.monotonic() < deadline:
                with agents[-1].connect() as connection:
                    assert agent_of(connection) == agents[-1].process.pid
    assert callers.failures == []
    assert callers.answers >= 500
    assert agents[-1].stop() == 0
    assert not agents[-1].path.exists()


def test_what_runs_is_answered_by_the_agent_that_started_it(start_successor: Start, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    first = start_successor()
    with first.connect() as old:
        sent = old.send("exec", cmd=f"echo before; cat {fifo}; echo after; exit 37")
        assert agent_of(old) == first.process.pid
        second = start_successor()
        # For a moment both accept.
        deadline = time.monotonic() + SECONDS
        accepting = first.process.pid
        while accepting == first.process.pid and time.monotonic() < deadline:
            with second.connect() as new:
                accepting = agent_of(new)
        assert accepting == second.process.pid
        # The old connection goes on, with more than what it had asked for before.
        assert agent_of(old) == first.process.pid
        fifo.write_text("released\n")
        answer = old.read()
        assert answer.request == sent
        assert answer.result == {"exit_code": 37, "stdout": "before\nreleased\nafter\n", "stderr": ""}
        assert first.process.poll() is None
    assert first.process.wait(SECONDS) == 0
    with second.connect() as new:
        assert new.call("ping") == {"pong": True}


def test_a_predecessor_that_still_serves_ends_by_sigterm(start_successor: Start, place: Path) -> None:
    first = start_successor()
    with first.connect() as old:
        sent = old.send("exec", cmd="sleep 1000")
        assert agent_of(old) == first.process.pid
        second = start_successor()
        assert first.stop() == 0
        answer = old.read()
        assert (answer.request, answer.result["exit_code"]) == (sent, 128 + signal.SIGTERM)
    # It has left alone what is its successor's.
    assert place.exists()
    with second.connect() as new:
        assert agent_of(new) == second.process.pid


def test_a_successor_that_dies_in_between_changes_nothing(start_successor: Start, place: Path) -> None:
    agent = start_successor()
    with ask(place, f"unix:{agent.path}") as successor:
        _, descriptors, _, _ = socket.recv_fds(successor, 100, 4)
        assert len(descriptors) == 1
        os.close(descriptors[0])
    with agent.connect() as connection:
        assert agent_of(connection) == agent.process.pid
    second = start_successor()
    assert agent.process.wait(SECONDS) == 0
    with second.connect() as connection:
        assert agent_of(connection) == second.process.pid


def test_a_successor_waits_for_the_agent_after_one_that_crashed(
    start_agent: Start, place: Path, tmp_path: Path
) -> None:
    # Its monitor has the socket open: nobody offers it, and nobody else can bind it.
    path = tmp_path / "kept.sock"
    with socket.socket(socket.AF_UNIX) as kept:
        kept.bind(str(path))
        kept.listen()

        def release() -> None:
            with kept.accept()[0]:  # it has looked whether somebody listens
                path.unlink()

        releasing = threading.Thread(target=release)
        releasing.start()
        successor = start_agent(path, arguments=["--handover", str(place)])
        with successor.connect() as connection:
            assert agent_of(connection) == successor.process.pid
        releasing.join()


def test_a_predecessor_that_was_killed_leaves_the_socket_to_bind(start_successor: Start, place: Path) -> None:
    first = start_successor()
    first.process.kill()
    first.process.wait(SECONDS)
    assert place.exists()
    second = start_successor()
    with second.connect() as connection:
        assert agent_of(connection) == second.process.pid


@pytest.mark.parametrize("address", ["unix:/elsewhere", "", "x" * 1000])
def test_another_address_is_not_handed_over(start_successor: Start, place: Path, address: str) -> None:
    agent = start_successor()
    with ask(place, address) as successor:
        assert socket.recv_fds(successor, 100, 4)[:2] == (b"", [])
    with agent.connect() as connection:
        assert agent_of(connection) == agent.process.pid


def test_only_its_own_user_may_take_over(start_successor: Start, place: Path) -> None:
    start_successor()
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.needs_root
def test_another_user_is_refused_even_where_the_path_is_open(start_successor: Start, place: Path) -> None:
    agent = start_successor()
    place.parent.chmod(0o755)
    place.chmod(0o777)
    stranger = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "os.chdir(sys.argv[1])\n"
        "os.setresuid(65534, 65534, 0)\n"
        "s.connect(sys.argv[2])\n"
        "print('connected', flush=True)\n"
        "s.send(sys.argv[3].encode())\n"
        "print('descriptors:', socket.recv_fds(s, 100, 4)[1])\n"
    )
    directory = place.parent
    done = subprocess.run(
        ["python3", "-c", stranger, str(directory), place.name, f"unix:{agent.path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=SECONDS,
    )
    # It is cut off either before it could send, or before it gets anything.
    assert done.stdout in (b"connected\n", b"connected\ndescriptors: []\n")
    with agent.connect() as connection:
        assert agent_of(connection) == agent.process.pid


def ask(place: Path, address: str) -> Any:
    """Ask for the listening socket as a successor does."""
    successor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    successor.settimeout(SECONDS)
    successor.connect(str(place))
    successor.send(address.encode())
    return successor
