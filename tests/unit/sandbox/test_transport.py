"""Connecting to an agent: the real one, and monitors that do not behave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import LineSplitter
from bouvet.sandbox import AgentClient, NotListening, connect, connect_unix, dial
from tests.protocol.conftest import Agent

SECONDS = 60.0

Answer = Callable[[socket.socket], object]


def never(pause: float) -> bool:
    """A machine that does not end."""
    return threading.Event().wait(pause)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start a monitor's socket that treats each caller as the next of some functions says."""
    with contextlib.ExitStack() as stack:

        def start(*answers: Answer, path: Path = tmp_path / "v.sock") -> Path:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen()
            thread = threading.Thread(target=serve, args=(listener, answers))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return path

        yield start


def serve(listener: socket.socket, answers: Sequence[Answer]) -> None:
    for answer in answers:
        try:
            caller, _ = listener.accept()
        except OSError:  # the test is over
            return
        with caller, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            answer(caller)


def refuse(caller: socket.socket) -> None:
    """What a monitor does while nobody listens in the guest."""
    assert caller.recv(64) == b"CONNECT 52\n"


def accept(caller: socket.socket) -> None:
    refuse(caller)
    caller.sendall(b"OK 1073741824\n")
    caller.recv(1)


def answering(line: bytes) -> Answer:
    def answer(caller: socket.socket) -> None:
        refuse(caller)
        caller.sendall(line)
        caller.recv(1)

    return answer


def test_the_agent_itself_answers_to_connect(agent: Agent) -> None:
    with AgentClient(connect(agent.path)) as client:
        client.ping()


def test_a_path_longer_than_an_address(
    start_agent: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    monkeypatch.chdir(directory)
    start_agent(Path("agent.sock"))
    assert len(str(directory / "agent.sock")) > 108
    with AgentClient(connect(directory / "agent.sock")) as client:
        client.ping()


def test_what_follows_the_answer_is_not_read(monitor: Callable[..., Path]) -> None:
    path = monitor(answering(b"OK 1073741824\nfirst\nsecond\n"))
    with connect(path) as connection:
        splitter, lines = LineSplitter(), list[bytes]()
        while len(lines) < 2:
            lines += splitter.feed(connection.recv(64))
    assert lines == [b"first", b"second"]


def test_an_answer_may_come_in_pieces(monitor: Callable[..., Path]) -> None:
    def answer(caller: socket.socket) -> None:
        refuse(caller)
        for byte in b"OK 12\nX":
            caller.send(bytes([byte]))
        caller.recv(1)

    with connect(monitor(answer)) as connection:
        assert connection.recv(64) == b"X"


@pytest.mark.parametrize(
    "line", [b"NO\n", b"OK\n", b"OK -1\n", b"OK 99999999999\n", b"\n", b"O" * 1000, b"\xff" * 40 + b"\n"]
)
def test_another_answer_is_an_error_and_no_reason_to_try_again(
    monitor: Callable[..., Path], line: bytes
) -> None:
    path = monitor(answering(line), accept)
    with pytest.raises(AgentError) as error:
        dial(path, deadline=time.monotonic() + SECONDS, ended=never)
    assert not isinstance(error.value, NotListening)


def test_refusal_and_silence_are_told_apart_from_nonsense(monitor: Callable[..., Path]) -> None:
    silent = threading.Event()
    path = monitor(refuse, lambda caller: silent.wait(SECONDS))
    with pytest.raises(NotListening):
        connect(path)
    with pytest.raises(NotListening):
        connect(path, timeout=0.1)
    silent.set()


def test_an_answer_that_trickles_ends_with_its_time(monitor: Callable[..., Path]) -> None:
    def trickle(caller: socket.socket) -> None:
        refuse(caller)
        for _ in range(30):
            caller.send(b" ")
            never(0.05)

    path = monitor(trickle)
    started = time.monotonic()
    with pytest.raises(NotListening):
        connect(path, timeout=0.2)
    assert time.monotonic() - started < 1.0


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "v.sock", tmp_path / "missing" / "v.sock"):
        with pytest.raises(NotListening):
            connect_unix(path)


def test_dialling_goes_on_until_somebody_listens(monitor: Callable[..., Path]) -> None:
    path = monitor(*[refuse] * 5, accept)
    dial(path, deadline=time.monotonic() + SECONDS, ended=never).close()


def test_dialling_begins_before_the_agent_is_there(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    attempts = 0
    tried = threading.Event()

    def ended(pause: float) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            tried.set()
        return never(pause)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        dialling = pool.submit(
            dial, tmp_path / "agent.sock", deadline=time.monotonic() + SECONDS, ended=ended
        )
        assert tried.wait(SECONDS)
        start_agent()
        with AgentClient(dialling.result(SECONDS)) as client:
            client.ping()


def test_dialling_stops_when_the_machine_has_ended(monitor: Callable[..., Path]) -> None:
    path = monitor(refuse, refuse, refuse, accept)
    asked: list[float] = []

    def ended(pause: float) -> bool:
        asked.append(pause)
        return len(asked) == 3

    with pytest.raises(NotListening):
        dial(path, deadline=time.monotonic() + SECONDS, ended=ended)
    assert len(asked) == 3
    assert max(asked) <= 0.05


def test_dialling_stops_at_the_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(NotListening):
        dial(tmp_path / "v.sock", deadline=started + 0.3, ended=never)
    assert 0.3 <= time.monotonic() - started < 5.0
