"""The client and the real agent."""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import CONTENT_LIMIT, DirectoryEntry, ErrorCode, ExecResult, RequestRefused
from bouvet.sandbox import AgentClient, CallFailed, CallTimeout, ConnectionLost, connect_unix
from tests.protocol.conftest import Agent

SECONDS = 60.0
"""How long anything may take on a busy machine."""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe that a command can wait at until the test opens it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def wait_at(gate: Path) -> str:
    """Return a command that says so when it runs, and waits until the gate is opened."""
    return f"echo here > {gate}.reached; read word < {gate}; echo $word"


def test_every_base_method(client: AgentClient, tmp_path: Path) -> None:
    client.ping()
    assert client.exec("echo out; echo err >&2; exit 3") == ExecResult(3, "out\n", "err\n")
    assert client.exec_code("python", "print('œ' * 2)") == ExecResult(0, "œœ\n", "")
    path = tmp_path / "new" / "file"
    client.write_file(str(path), "a\0\n☃")
    assert path.read_text() == "a\0\n☃"
    assert client.read_file(str(path)) == "a\0\n☃"
    (path.parent / "below").mkdir()
    assert client.list_dir(str(path.parent)) == (
        DirectoryEntry("below", is_dir=True, size=0),
        DirectoryEntry("file", is_dir=False, size=6),
    )


def test_an_unknown_language_is_a_result(client: AgentClient) -> None:
    result = client.exec_code("cobol", "DISPLAY 1")
    assert result.exit_code == -1
    assert "unsupported language: cobol" in result.stderr


def test_a_refusal_tells_why(client: AgentClient, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused) as refusal:
        client.read_file(str(tmp_path / "missing"))
    assert refusal.value.errno == "ENOENT"
    with pytest.raises(RequestRefused) as refusal:
        client.call("levitate", {})
    assert refusal.value.code == ErrorCode.METHOD_NOT_FOUND
    client.ping()


def test_what_cannot_be_encoded_leaves_the_connection_alone(client: AgentClient) -> None:
    with pytest.raises(AgentError):
        client.exec("\ud800")
    client.ping()


def test_many_threads_share_a_connection(client: AgentClient) -> None:
    def work(number: int) -> bool:
        return all(client.exec(f"echo {number}.{turn}").stdout == f"{number}.{turn}\n" for turn in range(10))

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(pool.map(work, range(64)))


def test_large_contents_go_both_ways_at_once(client: AgentClient, tmp_path: Path) -> None:
    contents = [chr(ord("a") + number) * CONTENT_LIMIT for number in range(4)]

    def work(number: int) -> bool:
        path = str(tmp_path / str(number))
        client.write_file(path, contents[number])
        return client.read_file(path) == contents[number]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_a_slow_command_does_not_hold_others_up(client: AgentClient, gate: Path) -> None:
    os.mkfifo(f"{gate}.reached")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.exec, wait_at(gate))
        assert Path(f"{gate}.reached").read_text() == "here\n"
        assert client.exec("echo quick").stdout == "quick\n"
        assert not slow.done()
        gate.write_text("open\n")
        assert slow.result(SECONDS).stdout == "open\n"


def test_a_call_that_ran_out_of_time_leaves_the_connection_usable(client: AgentClient, gate: Path) -> None:
    os.mkfifo(f"{gate}.reached")
    reached = threading.Thread(target=Path(f"{gate}.reached").read_text)
    reached.start()
    with pytest.raises(CallTimeout) as late:
        client.exec(wait_at(gate), timeout=0.2)
    assert late.value.sent
    reached.join(SECONDS)
    # The command was cancelled; that nobody waits for its answer any more is no reason to stumble over it.
    for _ in range(50):
        client.ping()


def open_for(count: int, gate: Path) -> None:
    """Let commands pass, wherever each is on its way to the gate."""
    # For both ways, so that it neither waits for the first nor ends with the first that has passed.
    descriptor = os.open(gate, os.O_RDWR)
    try:
        os.write(descriptor, b"open\n" * count)
        deadline = time.monotonic() + SECONDS
        while int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(descriptor)


def test_when_the_agent_dies_all_calls_fail_at_once(agent: Agent, client: AgentClient, gate: Path) -> None:
    os.mkfifo(f"{gate}.reached")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        calls = []
        for _ in range(3):
            calls.append(pool.submit(client.exec, wait_at(gate)))
            assert Path(f"{gate}.reached").read_text() == "here\n"
        agent.process.kill()
        for call in calls:
            failure = call.exception(SECONDS)
            assert isinstance(failure, ConnectionLost)
            assert failure.sent
        # What was left running ends with its pipe.
        open_for(len(calls), gate)
    with pytest.raises(ConnectionLost) as failed:
        client.ping()
    assert not failed.value.sent


def test_closing_fails_the_calls_that_wait(agent: Agent, gate: Path) -> None:
    os.mkfifo(f"{gate}.reached")
    client = AgentClient(connect_unix(agent.path))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.exec, wait_at(gate))
        assert Path(f"{gate}.reached").read_text() == "here\n"
        client.close()
        failure = call.exception(SECONDS)
        gate.write_text("open\n")
    assert isinstance(failure, CallFailed)
    assert failure.sent
    with pytest.raises(CallFailed):
        client.ping()
    client.close()
