"""Commands on the caller's streams and terminal, run by the real agent on this host."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import RequestRefused
from bouvet.running import COLLECTED_LIMIT, collect
from bouvet.sandbox import ProcessOptions, Sandbox
from tests.protocol.conftest import ROOT, Agent, agent, binary, start_agent
from tests.unit.attached import sandbox_here

__all__ = ["agent", "binary", "start_agent"]  # fixtures of the protocol's tests

SECONDS = 60.0

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(agent: Agent) -> Iterator[Start]:
    """Start programs that run a command with the agent."""
    programs: list[subprocess.Popen[bytes]] = []

    def run(command: str, *options: str, **streams: Any) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.unit.attached", str(agent.path), *options, command]
        programs.append(subprocess.Popen(argv, cwd=ROOT, **streams))
        return programs[-1]

    yield run
    for program in programs:
        program.kill()
        program.wait()
        for stream in (program.stdin, program.stdout, program.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def sandbox(agent: Agent) -> Iterator[Sandbox]:
    """A sandbox whose agent runs on this host."""
    sandbox = sandbox_here(agent.path)
    with sandbox.client:
        yield sandbox


PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def test_streams_are_passed_on_while_the_command_runs(start: Start) -> None:
    program = start("echo first; read line; echo $line >&2; exit 7", **PIPES)
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == b"first\n"
    program.stdin.write(b"second\n")
    program.stdin.flush()
    assert program.communicate(timeout=SECONDS) == (b"", b"second\n")
    assert program.returncode == 7


def test_every_byte_goes_both_ways(start: Start) -> None:
    data = os.urandom(1 << 20) * 24
    done, _ = start("cat", **PIPES).communicate(data, timeout=SECONDS)
    assert hashlib.sha256(done).digest() == hashlib.sha256(data).digest()


def test_output_waits_for_its_reader(start: Start) -> None:
    program = start("head -c 30000000 /dev/zero; echo end", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.read(10) == bytes(10)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(1.0)
    assert program.stdout.read()[-5:] == b"\0end\n"
    assert program.wait(SECONDS) == 0


def test_a_reader_that_leaves_ends_the_command(start: Start, tmp_path: Path) -> None:
    program = start(
        f"echo $$ > {tmp_path}/pid; yes",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.read(10)
    program.stdout.close()
    assert program.wait(SECONDS) != 0
    await_end(int((tmp_path / "pid").read_text()))


def await_end(process: int) -> None:
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_input_that_nobody_reads_does_not_hold_the_end_up(start: Start) -> None:
    program = start("exec 0<&-; echo done", **PIPES)
    output, _ = program.communicate(bytes(10 << 20), timeout=SECONDS)
    assert (output, program.returncode) == (b"done\n", 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130)])
def test_an_interruption_is_the_commands(start: Start, number: int, status: int) -> None:
    program = start("trap 'echo interrupted; exit 130' INT; echo ready; while :; do sleep 0.1; done", **PIPES)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(number)
    assert program.communicate(timeout=SECONDS)[0] == b"interrupted\n"
    assert program.returncode == status


def test_what_ignores_an_interruption_is_killed(start: Start, tmp_path: Path) -> None:
    program = start(f"trap '' INT; (sleep 1000 & echo $! > {tmp_path}/pid); echo ready; sleep 1000", **PIPES)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=SECONDS)
    assert program.returncode == 128 + signal.SIGKILL
    await_end(int((tmp_path / "pid").read_text()))


class Terminal:
    """A terminal that a program runs on."""

    def __init__(self, rows: int, columns: int) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def expect(self, text: bytes) -> None:
        seen = b""
        poll = select.poll()
        poll.register(self.ours, select.POLLIN)
        deadline = time.monotonic() + SECONDS
        while text not in seen:
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), seen
            seen += os.read(self.ours, 1 << 16)

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal(30, 100)
    yield terminal
    terminal.close()


def test_a_terminal_is_passed_on(start: Start, terminal: Terminal) -> None:
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs)
    program = start("PS1='ready> ' exec sh -i", "tty", **streams, start_new_session=True)
    terminal.expect(b"ready> ")
    terminal.type(b"stty size; tty\n")
    terminal.expect(b"30 100\r\n/dev/")
    terminal.resize(50, 132)
    program.send_signal(signal.SIGWINCH)
    terminal.type(b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re''sized\n")
    terminal.expect(b"resized\r\n")
    terminal.type(b"sleep 1000\n")
    terminal.expect(b"sleep 1000\r\n")
    terminal.type(b"\x03")  # Control-C is the command's own
    terminal.expect(b"ready> ")
    terminal.type(b"exit 5\n")
    assert program.wait(SECONDS) == 5
    assert termios.tcgetattr(terminal.theirs) == terminal.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_terminal_is_restored_whatever_ends_the_command(
    start: Start, terminal: Terminal, number: int, agent: Agent
) -> None:
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs)
    program = start("trap '' INT; echo rea''dy; sleep 1000", "tty", **streams, start_new_session=True)
    terminal.expect(b"ready")
    if number == signal.SIGKILL:
        agent.process.kill()
    else:
        program.send_signal(number)
    assert program.wait(SECONDS) != 0
    assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_output_is_collected_up_to_a_limit(sandbox: Sandbox) -> None:
    command = f"head -c {COLLECTED_LIMIT + 1} /dev/zero; printf err >&2"
    ending, collected = collect(sandbox, command, ProcessOptions(), None)
    assert ending.exit_code == 0
    assert (len(collected.stdout), bytes(collected.stderr)) == (COLLECTED_LIMIT, b"err")
    assert collected.truncated


def test_a_time_limit_ends_all_that_was_started(sandbox: Sandbox) -> None:
    command = "(sleep 1000 & echo $!); sleep 1000"
    ending, collected = collect(sandbox, command, ProcessOptions(time_limit=0.3), None)
    assert ending.timed_out
    await_end(int(collected.stdout))


def test_a_program_that_is_not_there(sandbox: Sandbox) -> None:
    with pytest.raises(RequestRefused) as refusal:
        collect(sandbox, ["/no/such/program"], ProcessOptions(), None)
    assert refusal.value.errno == "ENOENT"


def test_an_agent_that_dies_is_an_error(sandbox: Sandbox, agent: Agent) -> None:
    killer = threading.Timer(0.3, agent.process.kill)
    killer.start()
    with pytest.raises(AgentError):
        # It ends with its pipe.
        collect(sandbox, ["cat"], ProcessOptions(stdin=True), None)
    killer.join()
