"""Starts the real agent, compiled for this machine, on a Unix socket."""

from __future__ import annotations

import contextlib
import itertools
import platform
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bouvet.protocol import LineSplitter, Response, decode_response, encode_request

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
"""How long a single answer may take on a busy machine."""


class Connection:
    """A client that sends lines as they are given, and reads lines."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        self._splitter = LineSplitter()
        self._lines: list[bytes] = []
        self._numbers = itertools.count(1)

    def send_line(self, line: bytes) -> None:
        self.socket.sendall(line + b"\n")

    def read_line(self) -> bytes:
        while not self._lines:
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise EOFError("the agent closed the connection")
            self._lines += self._splitter.feed(piece)
        return self._lines.pop(0)

    def send(self, method: str, **params: Any) -> int:
        number = next(self._numbers)
        self.socket.sendall(encode_request(number, method, params))
        return number

    def read(self) -> Response:
        return decode_response(self.read_line())

    def call(self, method: str, **params: Any) -> Any:
        """Send one request and return its result; no other may be under way."""
        number = self.send(method, **params)
        answer = self.read()
        assert answer.request == number
        if answer.error is not None:
            raise answer.error
        return answer.result

    def run(self, command: str) -> tuple[int, str, str]:
        result = self.call("exec", cmd=command)
        return result["exit_code"], result["stdout"], result["stderr"]

    def close(self) -> None:
        self.socket.close()


@dataclass(frozen=True)
class Agent:
    """A running agent and the way to it."""

    process: subprocess.Popen[bytes]
    path: Path

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        with contextlib.closing(Connection(self.path)) as connection:
            yield connection

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def memory(self) -> int:
        """Bytes that it has resident now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def memory_peak(self) -> int:
        """The most bytes it has ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture(scope="session")
def binary() -> Path:
    """The agent for this machine; it is compiled if its source has changed."""
    machine = platform.machine()
    done = subprocess.run(
        [sys.executable, str(ROOT / "hatch_build.py"), machine], stdout=subprocess.PIPE, check=True
    )
    return Path(done.stdout.decode().strip())


@pytest.fixture
def start_agent(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start agents that end with the test, on a socket each or on the one that is given."""
    with contextlib.ExitStack() as stack:

        def start(path: Path | None = None, arguments: Sequence[str] = (), **options: Any) -> Agent:
            path = path or tmp_path / "agent.sock"
            process = subprocess.Popen(
                [binary, "--listen", f"unix:{path}", *arguments],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                **options,
            )
            stack.callback(_finish, process)
            assert process.stderr is not None
            assert process.stderr.readline() == f"bouvet-agent: listening on unix:{path}\n".encode()
            return Agent(process, path)

        yield start


@pytest.fixture
def agent(start_agent: Callable[..., Agent]) -> Agent:
    """A running agent."""
    return start_agent()


@pytest.fixture
def connection(agent: Agent) -> Iterator[Connection]:
    """A connection to a running agent."""
    with agent.connect() as connection:
        yield connection


def _finish(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(SECONDS)
    assert process.stderr is not None
    process.stderr.close()
