"""Images that `bouvet build` has made, booted until their agent answers, and what is left when they end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pty
import re
import secrets
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
from xml.etree import ElementTree as ET

import pytest

from bouvet.booting import BootOptions, boot
from bouvet.errors import MachineError
from bouvet.sandbox import AgentClient, CallTimeout, CommandOptions, Sandbox, connect
from bouvet.vm.machine import MIN_MEMORY
from bouvet.vm.terminal import LEAVE_KEY
from tests.conftest import USER_CACHE, BuiltImage

pytestmark = [pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap"), pytest.mark.slow]

SECONDS_TO_BOOT = 240.0
SECONDS_TO_TELL = 2.0
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "sandbox-api.md"
SHELL_PROMPT = b":~# "
"""The end of root's prompt: the machine has its name only when systemd has begun."""

RUNNING = Path("/tmp/bouvet")
OPTIONS = BootOptions(ready=SECONDS_TO_BOOT)


@pytest.fixture(scope="module", autouse=True)
def _kernels_of_the_user() -> Iterator[None]:
    """The kernel is downloaded once, and not for each run of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(USER_CACHE))
        yield


@pytest.fixture(scope="module")
def sandbox(base_image: BuiltImage, _kernels_of_the_user: None) -> Iterator[Sandbox]:
    """A running guest, for the tests that leave it as it was."""
    with boot(base_image.path, OPTIONS) as sandbox:
        yield sandbox


def bouvet(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    program = Path(sys.executable).with_name("bouvet")
    return subprocess.run(
        [program, *arguments],
        check=False,
        capture_output=True,
        timeout=SECONDS_TO_BOOT + 60,
        **options,
    )


# A running guest.


def test_a_boot_reports_its_times(sandbox: Sandbox) -> None:
    sandbox.system_state(timeout=SECONDS_TO_BOOT)  # by then the console has told everything
    timings = sandbox.timings
    steps = [timings.kernel, timings.init, timings.handover, timings.agent, timings.answer]
    assert None not in steps
    assert timings.agent <= timings.answer  # type: ignore[operator]
    assert steps[:3] == sorted(steps[:3], key=lambda step: step or 0.0)


def test_commands_code_and_files(sandbox: Sandbox) -> None:
    result = sandbox.run("uname -s; pwd; id -u; exit 3")
    assert (result.exit_code, result.stdout) == (3, "Linux\n/root\n0\n")
    assert sandbox.run_code("bash", "echo ${BASH_VERSINFO[0]}").stdout == "5\n"
    sandbox.write_file("/tmp/below/file", "œ\n")
    assert sandbox.read_file("/tmp/below/file") == "œ\n"
    assert [entry.name for entry in sandbox.list_dir("/tmp/below")] == ["file"]


def test_a_time_limit_ends_what_has_left_its_session_too(sandbox: Sandbox) -> None:
    command = "setsid sleep 1234 & sleep 1234"
    result = sandbox.run(command, CommandOptions(time_limit=0.5))
    assert result.details is not None
    assert result.details.ending.timed_out
    assert sandbox.run("until ! pgrep -x sleep; do sleep 0.05; done", timeout=SECONDS_TO_BOOT).stdout == ""


def test_a_large_file_in_pieces(sandbox: Sandbox) -> None:
    pieces = [letter * (8 << 20) for letter in "abcd"]
    for number, piece in enumerate(pieces):
        sandbox.write_file(f"/var/tmp/{number}", piece)
    assert [sandbox.read_file(f"/var/tmp/{number}") for number in range(4)] == pieces
    assert sandbox.run("rm /var/tmp/?").exit_code == 0


def test_many_clients_at_once(sandbox: Sandbox) -> None:
    ready = threading.Barrier(64)

    def work(number: int) -> bool:
        with sandbox.another_client() as client:
            ready.wait(SECONDS_TO_BOOT)
            return client.exec(f"echo {number}", timeout=SECONDS_TO_BOOT).stdout == f"{number}\n"

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(pool.map(work, range(64)))


def test_the_least_memory(base_image: BuiltImage) -> None:
    """Debian's kernel keeps more than half of it: there is room for the agent, if not for all of systemd."""
    with boot(base_image.path, dataclasses.replace(OPTIONS, memory=MIN_MEMORY)) as sandbox:
        assert sandbox.system.metrics()["memory"]["total"] < MIN_MEMORY


def test_an_agent_that_does_not_go_on_is_not_waited_for(base_image: BuiltImage) -> None:
    with boot(base_image.path, OPTIONS) as sandbox:
        with pytest.raises(CallTimeout) as late:
            sandbox.run("kill -STOP $PPID", timeout=5.0)  # the agent
        assert late.value.sent
        with pytest.raises(CallTimeout):
            sandbox.write_file("/tmp/large", "x" * (10 << 20), timeout=1.0)
        asked = time.monotonic()
    assert time.monotonic() - asked < SECONDS_TO_TELL
    assert not (RUNNING / sandbox.machine.machine_id).exists()


# Ends of a machine, while a command runs.


def kill(find: Callable[[Any], subprocess.Popen[bytes]]) -> Callable[[Sandbox], None]:
    return lambda sandbox: os.kill(find(sandbox.machine).pid, signal.SIGKILL)


ENDS: dict[str, tuple[str, Callable[[Sandbox], object], str]] = {
    "the guest panics": ("echo c > /proc/sysrq-trigger; cat", lambda sandbox: None, "panicked"),
    "the guest restarts": (
        "echo b > /proc/sysrq-trigger; cat",
        lambda sandbox: None,
        "powered off or restarted",
    ),
    "QEMU is killed": ("cat", kill(lambda machine: machine._running.qemu), "QEMU was killed"),
    "the backend is killed": ("cat", kill(lambda machine: machine._running.backend.process), "vsock"),
}


@pytest.mark.parametrize(("wait", "end", "message"), ENDS.values(), ids=ENDS.keys())
def test_an_end_during_a_command_is_told_at_once(
    base_image: BuiltImage, wait: str, end: Callable[[Sandbox], object], message: str
) -> None:
    with boot(base_image.path, OPTIONS) as sandbox:
        # A pipe that opens when both commands are running.
        sandbox.run("mkfifo /tmp/pipe")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(sandbox.run, f"exec < /tmp/pipe; {wait}", timeout=SECONDS_TO_BOOT)
            with contextlib.suppress(MachineError):  # the end may be quicker than this command's
                sandbox.run("exec 3> /tmp/pipe; sleep infinity >&- 2>&- & echo")
            end(sandbox)
            ended = sandbox.machine.wait(SECONDS_TO_BOOT)
            knowable = time.monotonic()
            failure = call.exception(SECONDS_TO_BOOT)
        assert time.monotonic() - knowable < SECONDS_TO_TELL
        assert isinstance(failure, MachineError)
        assert message in failure.message
        assert ended is not None
        run_directory = RUNNING / sandbox.machine.machine_id
    assert not run_directory.exists()


# The command line.


def test_output_and_exit_status_are_passed_on(base_image: BuiltImage) -> None:
    done = bouvet(
        "run", base_image.path, "--quiet", "--boot-timeout", str(SECONDS_TO_BOOT),
        "--", "sh", "-c", "cat; printf 'o\\303\\251'; echo e >&2; exit 7",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, "oé".encode(), b"e\n")


def test_code_comes_from_standard_input_and_results_as_json(base_image: BuiltImage) -> None:
    arguments = ("run", base_image.path, "--boot-timeout", str(SECONDS_TO_BOOT), "--lang", "bash", "--json")
    done = bouvet(*arguments, input=b"echo $((6 * 7)); kill -9 $$")
    assert done.returncode == 128 + signal.SIGKILL
    result = json.loads(done.stdout)
    assert (result["exit_code"], result["stdout"]) == (128 + signal.SIGKILL, "42\n")
    assert result["timings"]["answer"] > 0


def test_a_command_that_takes_too_long(base_image: BuiltImage) -> None:
    arguments = ("run", base_image.path, "--quiet", "--boot-timeout", str(SECONDS_TO_BOOT))
    done = bouvet(*arguments, "--timeout", "0.5", "--", "sleep", "infinity")
    assert done.returncode == 124
    assert b"longer than 0.5 s" in done.stderr


def test_a_command_is_given_input_variables_a_directory_and_a_user(
    base_image: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "here")
    data = os.urandom(3 << 20)
    script = 'head -c 100; sha256sum >&2; echo "$GIVEN $FROM_HERE"; pwd; id -un'
    done = bouvet(
        "run", base_image.path, "--quiet", "--env", "GIVEN=a b", "--env", "FROM_HERE", "--cwd", "/tmp",
        "--user", "nobody", "--", "sh", "-c", script, input=data,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == data[:100] + b"a b here\n/tmp\nnobody\n"


def test_more_than_a_mebibyte_of_output(base_image: BuiltImage) -> None:
    done = bouvet("run", base_image.path, "--quiet", "--", "head", "-c", "5000000", "/dev/zero")
    assert (done.returncode, done.stdout) == (0, bytes(5_000_000))


def test_a_program_that_is_not_there(base_image: BuiltImage) -> None:
    done = bouvet("run", base_image.path, "--quiet", "--", "no-such-program")
    assert done.returncode == 127
    assert b"could not be started" in done.stderr


def test_files_go_in_and_out_and_services_are_waited_for(base_image: BuiltImage, tmp_path: Path) -> None:
    (tmp_path / "source" / "below").mkdir(parents=True)
    (tmp_path / "source" / "below" / "file").write_text("up and down\n")
    done = bouvet(
        "run", base_image.path, "--quiet", "--wait-system", "--boot-timeout", str(SECONDS_TO_BOOT),
        "--upload", f"{tmp_path}/source:/root/there", "--upload", f"{tmp_path}/source/below/file:/root/one",
        "--download", f"/root/there:{tmp_path}/back", "--download", f"/root/two:{tmp_path}/two",
        "--", "sh", "-c", "systemctl is-system-running && cat one there/below/file > two",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"running\n"), done.stderr
    assert (tmp_path / "back" / "below" / "file").read_text() == "up and down\n"
    assert (tmp_path / "two").read_text() == "up and down\n" * 2


def test_a_shell_on_a_terminal(base_image: BuiltImage) -> None:
    ours, theirs = pty.openpty()
    screen = Screen(ours)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(theirs)
    child = subprocess.Popen(
        [Path(sys.executable).with_name("bouvet"), "run", "-it", base_image.path],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        screen.expect(SHELL_PROMPT)
        os.write(ours, b"stty size; shopt login_shell\n")
        screen.expect(b"30 100\r\n")
        screen.expect(b"on\r\n")
        # The echo of the line comes before the program that an interruption is meant for.
        os.write(ours, b"sh -c 'echo run\"\"ning; exec sleep 1000'\n")
        screen.expect(b"running\r\n")
        os.write(ours, b"\x03")
        screen.expect(SHELL_PROMPT)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
        child.send_signal(signal.SIGWINCH)
        os.write(ours, b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; exit 5\n")
        assert child.wait(SECONDS_TO_BOOT) == 5
        assert termios.tcgetattr(theirs) == before
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(theirs)


def test_the_examples_of_the_guide(
    base_image: BuiltImage, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images" / "output").mkdir(parents=True)
    (tmp_path / "images" / "output" / "debian-devbox.ext4").symlink_to(base_image.path)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(examples) >= 7
    names: dict[str, Any] = {}
    for example in examples:
        names["sandbox"] = sandbox
        exec(compile(example, str(GUIDE), "exec"), names)


def test_an_agent_that_never_answers(base_image: BuiltImage) -> None:
    started = time.monotonic()
    done = bouvet("run", base_image.path, "--quiet", "--boot-timeout", "0.5", "--", "true")
    assert done.returncode == 10
    assert b"did not answer within 0.5 s" in done.stderr
    assert time.monotonic() - started < 30


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image.ext4"
    path.write_bytes(bytes(1 << 20))
    done = bouvet("run", path, "--quiet", "--", "true")
    assert done.returncode == 10
    assert b"is no image" in done.stderr


BOOTS, RUNS = "while it boots", "while a command runs"


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        (BOOTS, signal.SIGINT, 130),
        (BOOTS, signal.SIGTERM, 130),
        (BOOTS, signal.SIGKILL, -signal.SIGKILL),
        # The command gets the signal, and its status is passed on.
        (RUNS, signal.SIGINT, 128 + signal.SIGINT),
        (RUNS, signal.SIGTERM, 128 + signal.SIGTERM),
        (RUNS, signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_leaves_nothing_behind(
    base_image: BuiltImage, number: int, status: int, moment: str, wait_for_exit: Callable[[int, float], bool]
) -> None:
    name = f"test-{secrets.token_hex(4)}"
    command: list[str | Path]
    command = [Path(sys.executable).with_name("bouvet"), "run", base_image.path, "--id", name]
    command += [
        "--boot-timeout",
        str(SECONDS_TO_BOOT),
        "--",
        "sh",
        "-c",
        "echo it runs >&2; exec sleep infinity",
    ]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert child.stderr is not None
        awaited = b"boot: started" if moment == BOOTS else b"it runs"
        assert any(awaited in line for line in child.stderr)
        helpers = descendants(child.pid)
        assert len(helpers) >= 2  # QEMU and the vsock backend
        asked = time.monotonic()
        child.send_signal(number)
        assert child.wait(SECONDS_TO_BOOT) == status
        assert all(wait_for_exit(helper, SECONDS_TO_TELL) for helper in helpers)
        assert time.monotonic() - asked < SECONDS_TO_TELL + 1
        if number == signal.SIGKILL:
            # Nobody was left to remove it: the next machine does.
            assert bouvet("run", base_image.path, "--quiet", "--boot-timeout", "0.1", "--", "true").returncode
        assert not (RUNNING / name).exists()
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def descendants(process: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def test_a_machine_that_is_kept(base_image: BuiltImage) -> None:
    name = f"test-{secrets.token_hex(4)}"
    child = subprocess.Popen(
        [
            Path(sys.executable).with_name("bouvet"),
            "run",
            base_image.path,
            "--id",
            name,
            "--keep",
            "--",
            "true",
        ],
        stderr=subprocess.PIPE,
    )
    try:
        assert child.stderr is not None
        path = RUNNING / name / "v.sock"
        assert any(str(path).encode() in line for line in child.stderr)
        with AgentClient(connect(path)) as client:
            assert client.exec("echo kept").stdout == "kept\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS_TO_BOOT) == 130
        assert not path.parent.exists()
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def test_the_console_on_a_terminal(base_image: BuiltImage) -> None:
    ours, theirs = pty.openpty()
    screen = Screen(ours)
    before = termios.tcgetattr(theirs)
    name = f"test-{secrets.token_hex(4)}"
    child = subprocess.Popen(
        [Path(sys.executable).with_name("bouvet"), "boot", base_image.path, "--id", name],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        screen.expect(b"login: ")
        os.write(ours, b"root\n")
        screen.expect(b"Password: ")
        os.write(ours, b"root\n")
        screen.expect(b"root@bouvet:~# ")
        os.write(ours, b"\x03")  # Control-C is the guest's: its shell begins a new line
        screen.expect(b"?2004h")
        os.write(ours, b"echo $((6 * 7))\n")
        screen.expect(b"42\r\n")
        os.write(ours, LEAVE_KEY)
        screen.expect(b"the machine was ended")
        assert child.wait(SECONDS_TO_BOOT) == 0
        assert termios.tcgetattr(theirs) == before
        assert not (RUNNING / name).exists()
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(theirs)


class Screen:
    """Reads what is written on a terminal, in its order."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.unread = b""

    def expect(self, text: bytes) -> None:
        """Read until a text has come; what came behind it is left for the next."""
        poll = select.poll()
        poll.register(self.terminal, select.POLLIN)
        deadline = time.monotonic() + SECONDS_TO_BOOT
        while text not in self.unread:
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), self.unread
            self.unread += os.read(self.terminal, 1 << 16)
        self.unread = self.unread.partition(text)[2]


def test_the_timings_of_a_boot(base_image: BuiltImage, tmp_path: Path) -> None:
    picture = tmp_path / "boot.svg"
    options = ("--timings", "--json", "--svg", picture, "--boot-timeout", str(SECONDS_TO_BOOT))
    done = bouvet("boot", base_image.path, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    hosts = {row["name"]: row["host"] for row in report["rows"]}
    assert 0 < hosts["kernel"] < hosts["initial file system"] < hosts["first answer"]
    assert any("Startup finished in" in line for line in report["units"])
    assert any(".service" in line for line in report["units"])
    units = {unit["name"]: unit for unit in report["unit_timings"]}
    handover = {row["name"]: row["guest"] for row in report["rows"]}["image's init"]
    assert handover < units["systemd-journald.service"]["start"] < units["multi-user.target"]["start"]
    drawn = {text.text for text in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {"until: first answer", "systemd-journald.service", "multi-user.target"} <= drawn
