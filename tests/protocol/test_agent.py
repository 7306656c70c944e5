"""What the agent does beyond single requests: concurrency, lost connections, processes, its end."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bouvet.protocol import CONTENT_LIMIT, LINE_LIMIT, ErrorCode, RequestRefused, decode_response

MIB = 1 << 20
COMMANDS_OF_A_CONNECTION = 256
SECONDS = 60.0

Start = Callable[..., Any]
WaitForExit = Callable[[int, float], bool]


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO: a command that reads it hangs until `release` opens it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def release(fifo: Path) -> None:
    """Let every command go on that waits for the FIFO; there must be one."""
    with fifo.open("wb"):
        pass


# --- Concurrency --------------------------------------------------------------------------------------


def test_fifty_connections_at_once(agent: Any) -> None:
    def converse(number: int) -> list[Any]:
        with agent.connect() as connection:
            path = f"{agent.path}.{number}"
            return [
                connection.call("ping"),
                connection.run(f"echo {number}; exit {number}"),
                connection.call("write_file", path=path, content=str(number)),
                connection.call("read_file", path=path),
            ]

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(converse, range(50)))
    assert results == [
        [{"pong": True}, (number, f"{number}\n", ""), {"success": True}, {"content": str(number)}]
        for number in range(50)
    ]


def test_a_thousand_open_connections(agent: Any) -> None:
    with agent.connect() as last:
        others = []
        try:
            for _ in range(1000):
                others.append(socket.socket(socket.AF_UNIX))
                others[-1].connect(str(agent.path))
                others[-1].sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
            assert all(b"pong" in other.recv(100) for other in others)
            assert last.call("ping") == {"pong": True}
            assert agent.memory_peak() < 8 * MIB
        finally:
            for other in others:
                other.close()


def test_a_hung_command_blocks_nothing_on_its_connection(connection: Any, fifo: Path) -> None:
    hung = connection.send("exec", cmd=f"cat {fifo}; exit 7")
    assert connection.call("ping") == {"pong": True}
    assert connection.run("echo beside") == (0, "beside\n", "")
    release(fifo)
    answer = connection.read()
    assert (answer.request, answer.result["exit_code"]) == (hung, 7)


def test_too_many_commands_are_refused_and_the_rest_goes_on(connection: Any, fifo: Path) -> None:
    hung = {connection.send("exec", cmd=f"cat {fifo}") for _ in range(COMMANDS_OF_A_CONNECTION)}
    with pytest.raises(RequestRefused) as refused:
        connection.call("exec", cmd="true")
    assert refused.value.code == ErrorCode.INTERNAL
    assert connection.call("ping") == {"pong": True}
    answered: set[int | str | None] = set()
    while answered != hung:
        release(fifo)
        answered.add(connection.read().request)
        answered |= {decode_response(line).request for line in drain(connection)}
    assert connection.run("true") == (0, "", "")


def drain(connection: Any) -> list[bytes]:
    """Return the lines that are there already."""
    lines = []
    connection.socket.settimeout(0.5)
    try:
        while True:
            lines.append(connection.read_line())
    except TimeoutError:
        return lines
    finally:
        connection.socket.settimeout(SECONDS)


def test_a_long_pipeline_of_file_operations(connection: Any, tmp_path: Path) -> None:
    # Sent from a thread: a client that does not read is not read from either.
    def send() -> list[int]:
        return [connection.send("write_file", path=f"{tmp_path}/{i}", content="x") for i in range(2000)]

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        answers = [connection.read() for _ in range(2000)]
    assert sorted(answer.request for answer in answers) == sending.result()
    assert all(answer.error is None for answer in answers)


# --- Connections that end -----------------------------------------------------------------------------


def test_a_disconnect_within_a_request(agent: Any) -> None:
    for part in (
        b"",
        b"CONNECT",
        b"CONNECT 52\n{",
        b'{"jsonrpc":"2.0","id":1,"method":"exec","params":{"cmd":"ec',
    ):
        with agent.connect() as connection:
            connection.socket.sendall(part)
    with agent.connect() as connection:
        assert connection.call("ping") == {"pong": True}


def test_a_command_runs_on_when_its_client_is_gone(agent: Any, fifo: Path, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    os.mkfifo(ended)
    with agent.connect() as connection:
        connection.send("exec", cmd=f"cat {fifo}; echo over > {ended}")
    release(fifo)
    assert ended.read_text() == "over\n"
    with agent.connect() as connection:
        assert connection.call("ping") == {"pong": True}


def test_a_client_that_only_stops_sending_is_still_answered(connection: Any, fifo: Path) -> None:
    connection.send("exec", cmd=f"cat {fifo}; echo done")
    connection.socket.shutdown(socket.SHUT_WR)
    release(fifo)
    assert connection.read().result["stdout"] == "done\n"
    with pytest.raises(EOFError):
        connection.read_line()


def test_a_client_that_does_not_read_blocks_nobody_else(agent: Any) -> None:
    with agent.connect() as deaf, agent.connect() as other:
        for _ in range(20):
            deaf.send("exec", cmd="head -c 1000000 /dev/zero | tr '\\0' x")
        assert other.run("echo here") == (0, "here\n", "")


# --- Processes ----------------------------------------------------------------------------------------


def test_a_grandchild_that_holds_the_output(connection: Any, wait_for_exit: WaitForExit) -> None:
    started = time.monotonic()
    exit_code, stdout, _ = connection.run("sleep 1000 & echo $!; exit 5")
    assert time.monotonic() - started < 10
    assert exit_code == 5
    os.kill(int(stdout), signal.SIGKILL)
    assert wait_for_exit(int(stdout), SECONDS)


def test_a_background_process_outlives_its_output_pipe(connection: Any, fifo: Path, tmp_path: Path) -> None:
    survived = tmp_path / "survived"
    os.mkfifo(survived)
    # It ignores nothing: a write to a closed pipe would end it by SIGPIPE.
    background = f"(cat {fifo}; head -c 1000000 /dev/zero; echo alive > {survived}) &"
    assert connection.run(f"{background} echo started") == (0, "started\n", "")
    release(fifo)
    assert survived.read_text() == "alive\n"


def test_orphans_are_collected_and_no_status_is_lost(agent: Any) -> None:
    def run(number: int) -> tuple[int, str, str]:
        with agent.connect() as connection:
            # An orphan that ends at about the same time as the command whose status is wanted.
            result: tuple[int, str, str] = connection.run(f"(true &); (true &); exit {number % 256}")
            return result

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(run, range(400)))
    assert [exit_code for exit_code, _, _ in results] == [number % 256 for number in range(400)]
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    deadline = time.monotonic() + SECONDS
    while children.read_text() and time.monotonic() < deadline:
        with agent.connect() as connection:
            connection.call("ping")
    assert children.read_text() == ""


def test_output_at_full_speed_does_not_stay_in_memory(agent: Any, connection: Any) -> None:
    exit_code, stdout, _ = connection.run("head -c 300000000 /dev/zero | tr '\\0' x")
    assert exit_code == 0
    assert len(stdout) < 1.1 * MIB
    assert agent.memory_peak() < 20 * MIB


def test_a_line_over_the_limit_does_not_stay_in_memory(agent: Any, connection: Any) -> None:
    for _ in range(LINE_LIMIT // MIB + 10):
        connection.socket.sendall(b"x" * MIB)
    connection.socket.sendall(b"\n")
    assert connection.read().error.code == ErrorCode.INVALID_REQUEST
    connection.socket.sendall(b"x" * 200 * MIB + b"\n")
    assert connection.read().error.code == ErrorCode.INVALID_REQUEST
    assert connection.call("ping") == {"pong": True}
    assert agent.memory_peak() < LINE_LIMIT + 16 * MIB


def test_memory_is_given_back_after_large_requests(agent: Any, connection: Any, tmp_path: Path) -> None:
    path = f"{tmp_path}/large"
    for _ in range(3):
        connection.call("write_file", path=path, content="x" * CONTENT_LIMIT)
        assert len(connection.call("read_file", path=path)["content"]) == CONTENT_LIMIT
    deadline = time.monotonic() + SECONDS
    while agent.memory() > 8 * MIB and time.monotonic() < deadline:
        connection.call("ping")
    assert agent.memory() <= 8 * MIB


def test_commands_get_the_same_surroundings_however_the_agent_was_started(
    start_agent: Start, tmp_path: Path
) -> None:
    agent = start_agent(env={"PATH": "/nowhere", "SECRET": "leaks", "LC_ALL": "de_DE"}, cwd="/usr/lib")
    with agent.connect() as connection:
        _, stdout, _ = connection.run("pwd; env; umask")
    home = pwd.getpwuid(os.getuid()).pw_dir
    first, *rest, umask = stdout.splitlines()
    variables = dict(line.split("=", 1) for line in rest)
    assert first == home
    assert umask == "0022"
    assert variables["HOME"] == home
    assert variables["LANG"] == "C.UTF-8"
    assert variables["RUSTUP_HOME"] == "/usr/local/rustup"
    assert variables["CARGO_HOME"] == "/usr/local/cargo"
    assert "/usr/local/cargo/bin" in variables["PATH"].split(":")
    assert "SECRET" not in variables


# --- The agent's own start and end --------------------------------------------------------------------


def test_sigterm_ends_the_commands_and_answers_them(agent: Any, connection: Any, fifo: Path) -> None:
    sent = connection.send("exec", cmd=f"echo before; cat {fifo}")
    assert connection.call("ping") == {"pong": True}
    assert connection.run("true") == (0, "", "")
    assert agent.stop() == 0
    answer = connection.read()
    assert (answer.request, answer.result["exit_code"]) == (sent, 128 + signal.SIGTERM)
    with pytest.raises(EOFError):
        connection.read_line()
    assert not agent.path.exists()


def test_sigterm_ends_a_command_that_ignores_it(agent: Any, connection: Any, fifo: Path) -> None:
    connection.send("exec", cmd=f"trap '' TERM; (cat {fifo}); cat {fifo}")
    fifo_writer = os.open(fifo, os.O_WRONLY)  # once somebody reads it, the trap is set
    try:
        started = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - started < 10
    finally:
        os.close(fifo_writer)


def test_sigterm_does_not_wait_for_a_client_that_does_not_read(agent: Any, connection: Any) -> None:
    for _ in range(20):
        connection.send("exec", cmd="head -c 1000000 /dev/zero | tr '\\0' x")
    assert connection.read().result["exit_code"] == 0
    assert agent.stop() == 0


def test_a_socket_that_nobody_listens_on_is_taken_over(start_agent: Start, tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with start_agent(path).connect() as connection:
        assert connection.call("ping") == {"pong": True}


def test_a_socket_in_use_is_left_alone(agent: Any, binary: Path) -> None:
    second = subprocess.run(
        [binary, "--listen", f"unix:{agent.path}"], check=False, capture_output=True, timeout=SECONDS
    )
    assert second.returncode == 1
    assert b"address already in use" in second.stderr
    with agent.connect() as connection:
        assert connection.call("ping") == {"pong": True}


def test_only_its_own_user_may_connect(agent: Any) -> None:
    assert agent.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--version"], 0, "bouvet-agent 0."),
        (["--help"], 0, "--listen ADDRESS"),
        (["--nonsense"], 2, "wrong argument: --nonsense"),
        (["--listen"], 2, "wrong argument: --listen"),
        (["--listen", "tcp:80"], 1, "not an address: tcp:80"),
        (["--listen", "vsock:x"], 1, "not a vsock port: x"),
        (["--listen", "unix:/nonexistent/a.sock"], 1, "no such file"),
    ],
)
def test_arguments(binary: Path, arguments: list[str], status: int, text: str) -> None:
    done = subprocess.run([binary, *arguments], check=False, capture_output=True, timeout=SECONDS)
    assert done.returncode == status
    assert text in (done.stdout if status == 0 else done.stderr).decode()


def test_starting_takes_milliseconds(start_agent: Start) -> None:
    """Its start to listening, best of ten: a bound that a busy machine still keeps."""
    seconds = []
    for _ in range(10):
        started = time.monotonic()
        agent = start_agent()
        seconds.append(time.monotonic() - started)
        assert agent.stop() == 0
    assert min(seconds) < 0.05


@pytest.mark.needs_root
def test_a_full_disk_is_an_error_and_leaves_the_old_content(
    connection: Any, tmp_path: Path, small_disk: Path
) -> None:
    path = small_disk / "file"
    connection.call("write_file", path=str(path), content="old")
    with pytest.raises(RequestRefused) as refused:
        connection.call("write_file", path=str(path), content="x" * 8 * MIB)
    assert refused.value.errno == "ENOSPC"
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["file"]  # noqa: PTH208


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system with room for 1 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)
