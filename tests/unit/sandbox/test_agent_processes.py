"""The client's commands and processes, with the real agent on this host."""

from __future__ import annotations

import hashlib
import os
import pwd
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bouvet.protocol import RequestRefused
from bouvet.sandbox import (
    AgentClient,
    CallTimeout,
    CommandOptions,
    Exit,
    Gap,
    Output,
    ProcessOptions,
    TerminalSize,
    connect_unix,
)
from tests.protocol.conftest import Agent

SECONDS = 60.0


def read(events: Any, stream: str = "stdout") -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Output) and event.stream == stream)


def ping_on(client: AgentClient) -> None:
    while True:
        client.ping(timeout=0.5)


def await_true(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_is_given_what_it_needs(client: AgentClient, tmp_path: Path) -> None:
    options = CommandOptions(
        arguments=("one", "two words"), cwd=str(tmp_path), environment={"NAME": "œ"}, stdin=b"\xff\0x"
    )
    result = client.exec('pwd; echo "$2-$NAME"; cat', options)
    assert result.details is not None
    assert result.details.stdout == f"{tmp_path}\ntwo words-œ\n".encode() + b"\xff\0x"
    assert result.stdout.endswith("\ufffd\0x")
    ending = result.details.ending
    assert (ending.exit_code, ending.signal, ending.timed_out, ending.oom_killed) == (0, None, False, False)
    assert not result.details.truncated


def test_code_gets_arguments(client: AgentClient) -> None:
    result = client.exec_code("python", "import sys; print(sys.argv[1:])", CommandOptions(arguments=("a",)))
    assert result.stdout == "['a']\n"


def test_how_a_command_ended_is_told(client: AgentClient) -> None:
    result = client.exec("kill -9 $$", CommandOptions(time_limit=SECONDS))
    assert result.details is not None
    assert (result.exit_code, result.details.ending.signal) == (137, "SIGKILL")
    result = client.exec("head -c 100 /dev/zero", CommandOptions(max_output=10))
    assert result.details is not None
    assert result.details.truncated
    assert result.details.stdout[:10] == bytes(10)


def test_a_time_limit_ends_the_whole_tree(client: AgentClient, tmp_path: Path) -> None:
    started = time.monotonic()
    command = f"(sleep 1000; true) & echo $! > {tmp_path}/pid; sleep 1000"
    result = client.exec(command, CommandOptions(time_limit=0.3))
    assert result.details is not None
    assert result.details.ending.timed_out
    assert time.monotonic() - started < SECONDS
    process = Path("/proc") / (tmp_path / "pid").read_text().strip()
    await_true(lambda: not process.exists() or "Z" in (process / "stat").read_text())


@pytest.mark.needs_root
def test_a_command_runs_as_another_user(client: AgentClient) -> None:
    user = pwd.getpwnam("nobody")
    result = client.exec("id -u; id -g", CommandOptions(user="nobody", cwd="/"))
    assert result.stdout == f"{user.pw_uid}\n{user.pw_gid}\n"
    assert client.exec("id -u", CommandOptions(user=user.pw_uid, cwd="/")).stdout == f"{user.pw_uid}\n"


def test_a_call_that_is_given_up_ends_the_command(client: AgentClient, tmp_path: Path) -> None:
    with pytest.raises(CallTimeout):
        client.exec(f"echo $$ > {tmp_path}/pid; sleep 1000", timeout=0.5)
    process = Path("/proc") / (tmp_path / "pid").read_text().strip()
    await_true(lambda: not process.exists())
    client.ping()


def test_a_command_is_cancelled(client: AgentClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    call = client.submit(f"echo > {tmp_path}/ready; sleep 1000")
    (tmp_path / "ready").read_text()
    assert call.cancel()
    with pytest.raises(RequestRefused) as refusal:
        call.result(SECONDS)
    assert refusal.value.code == -32800
    assert not call.cancel()


def test_a_process_tells_all_its_output_and_its_end(client: AgentClient) -> None:
    with client.processes.start("echo out; echo err >&2; exit 3") as process:
        events = list(process.events(timeout=SECONDS))
    assert (read(events), read(events, "stderr")) == (b"out\n", b"err\n")
    assert isinstance(events[-1], Exit)
    assert events[-1].ending.exit_code == 3
    assert events[-1].totals == {"stdout": 4, "stderr": 4}
    with pytest.raises(RequestRefused):
        client.processes.attach(process.id)


def test_much_output_is_complete_though_it_is_read_late(client: AgentClient) -> None:
    count = 20_000_000
    with client.processes.start(f"head -c {count} /dev/zero") as process:
        # Nobody takes the output: as soon as its queue is full, all wait.
        with pytest.raises(CallTimeout):
            ping_on(client)
        events = list(process.events(timeout=SECONDS))
    assert not any(isinstance(event, Gap) for event in events)
    assert hashlib.sha256(read(events)).digest() == hashlib.sha256(bytes(count)).digest()
    client.ping()


def test_input_is_streamed_and_ends(client: AgentClient) -> None:
    data = os.urandom(3_000_000)
    with client.processes.start(["cat"], ProcessOptions(stdin=True)) as process:

        def feed() -> None:
            process.write(data)
            process.close_stdin()

        feeding = threading.Thread(target=feed)
        feeding.start()
        assert read(process.events(timeout=SECONDS)) == data
        feeding.join()


def test_input_after_the_end_is_refused(client: AgentClient) -> None:
    with client.processes.start("exec <&-; sleep 1000", ProcessOptions(stdin=True)) as process:

        def write() -> None:
            for _ in range(1000):
                process.write(b"x")

        with pytest.raises(RequestRefused) as refusal:
            write()
        assert refusal.value.errno == "EPIPE"


def test_a_terminal_has_a_size_that_changes(client: AgentClient) -> None:
    options = ProcessOptions(terminal=TerminalSize(30, 100))
    with client.processes.start("stty size; read line; stty size", options) as process:
        events = process.events(timeout=SECONDS)
        assert read([next(events)], "terminal") == b"30 100\r\n"
        process.resize(TerminalSize(50, 132))
        process.write(b"\n")
        assert read(events, "terminal").endswith(b"50 132\r\n")


def test_signals_reach_the_process_or_all_of_it(client: AgentClient) -> None:
    child = "trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.05; done"
    command = f"trap 'echo caught' TERM; ({child}) & wait; wait"
    with client.processes.start(command) as process:
        events = process.events(timeout=SECONDS)
        assert read([next(events)]) == b"ready\n"
        process.signal("SIGTERM", everything=True)
        assert sorted(read(events).split()) == [b"caught", b"child"]
    with pytest.raises(RequestRefused):
        process.signal("SIGTERM")


def test_a_process_outlives_its_connection_and_loses_nothing(agent: Agent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with AgentClient(connect_unix(agent.path)) as first:
        process = first.processes.start(f"echo before; read x < {gate}; echo after; exit 4")
        assert read([next(process.events(timeout=SECONDS))]) == b"before\n"
    gate.write_text("go\n")
    with AgentClient(connect_unix(agent.path)) as second:
        entries = second.processes.list()
        assert [entry.id for entry in entries] == [process.id]
        again = second.processes.attach(process.id, offsets=process.offsets)
        events = list(again.events(timeout=SECONDS))
        assert read(events) == b"after\n"
        assert isinstance(events[-1], Exit)
        assert events[-1].ending.exit_code == 4
        # And once more from the beginning, by somebody else, after the end.
        with AgentClient(connect_unix(agent.path)) as third:
            whole = third.processes.attach(process.id)
            assert read(whole.events(timeout=SECONDS)) == b"before\nafter\n"
            ended = whole.wait(timeout=SECONDS)
            assert ended is not None
            assert ended.ending == events[-1].ending
        again.forget()


def test_a_tied_process_ends_with_its_connection(agent: Agent, client: AgentClient) -> None:
    with AgentClient(connect_unix(agent.path)) as other:
        tied = other.processes.start("sleep 1000", ProcessOptions(tied=True))
        free = other.processes.start("sleep 1000")
    ended = client.processes.attach(tied.id).wait(timeout=SECONDS)
    assert ended is not None
    assert ended.ending.signal == "SIGKILL"
    left = client.processes.attach(free.id)
    assert left.wait(timeout=0.1) is None
    left.kill()
    assert left.wait(timeout=SECONDS) is not None


def test_what_nobody_watched_may_become_a_gap(client: AgentClient) -> None:
    options = ProcessOptions(watched=False, buffer=64 << 10)
    process = client.processes.start("head -c 1000000 /dev/zero", options)
    assert process.wait(timeout=SECONDS) is not None
    events = list(client.processes.attach(process.id, offsets={"stdout": 0}).events(timeout=SECONDS))
    gap = events[0]
    assert isinstance(gap, Gap)
    assert gap.offset == 0
    assert gap.length + len(read(events)) == 1_000_000
    assert len(read(events)) >= 64 << 10


def test_several_watch_one_process(agent: Agent, client: AgentClient) -> None:
    process = client.processes.start("read line; seq 10000", ProcessOptions(stdin=True))
    with AgentClient(connect_unix(agent.path)) as other:
        twin = other.processes.attach(process.id)
        process.write(b"\n")
        process.close_stdin()
        assert read(twin.events(timeout=SECONDS)) == read(process.events(timeout=SECONDS))
