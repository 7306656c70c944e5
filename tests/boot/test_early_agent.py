"""The agent before the machine's init, and the service that succeeds it, in a real image's boot."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.booting import await_agent
from bouvet.errors import AgentError
from bouvet.protocol import ExecResult
from bouvet.sandbox import AgentClient, ConnectionLost, Exit, Gap, Output
from bouvet.vm.machine import MIB, MachineConfig
from bouvet.vm.qemu import QemuMachine
from tests.boot.conftest import Console
from tests.conftest import BuiltImage, build_image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap", "depmod", "gcc"),
]

SECONDS = 200.0
"""Far more than a boot and a command take, for busy hosts."""

AWAIT_SERVICE = "until systemctl is-active -q bouvet-agent 2>/dev/null; do sleep 0.1; done"
AWAIT_BOOT = "until systemctl is-system-running --wait 2>&1 | grep -E 'running|degraded'; do sleep 0.1; done"
AWAIT_ONE_AGENT = "until [ $(grep -lx bouvet-agent /proc/[0-9]*/comm | wc -l) = 1 ]; do sleep 0.1; done"
MAIN_PID = "systemctl show -P MainPID bouvet-agent"

Start = Callable[..., tuple[QemuMachine, Console, AgentClient]]


@pytest.fixture
def start(configure: Callable[..., MachineConfig], base_image: BuiltImage) -> Iterator[Start]:
    """Boot the preset's image, and connect as soon as an agent answers."""
    machines: list[QemuMachine] = []

    def boot(*words: str, **options: Any) -> tuple[QemuMachine, Console, AgentClient]:
        options = {"image": base_image.path, **options}
        config = configure(memory=512 * MIB, kernel_arguments=words, **options)
        machines.append(QemuMachine(config))
        machines[-1].start()
        console = Console(machines[-1])
        return machines[-1], console, await_agent(machines[-1], SECONDS)[0]

    yield boot
    for machine in machines:
        machine.kill()


def connect(machine: QemuMachine) -> AgentClient:
    """Connect to whichever agent answers: one that has just been killed may still accept."""
    return await_agent(machine, SECONDS)[0]


def ping_on(client: AgentClient) -> None:
    """Ping without an end."""
    while True:
        client.ping(timeout=SECONDS)


def run(client: AgentClient, command: str) -> str:
    """Run a command that must not fail, and return its output."""
    result = client.exec(command, timeout=SECONDS)
    assert result.exit_code == 0, result
    return result.stdout.strip()


def test_a_service_succeeds_the_agent_that_was_there_before_systemd(
    start: Start,
) -> None:
    machine, console, early = start()
    with early:
        assert run(early, "systemctl is-system-running || true") in (
            "",
            "offline",
            "initializing",
            "starting",
        )
        first = run(early, "echo $PPID")
        assert run(early, "uname -n") == "bouvet"
        results: list[ExecResult] = []
        across = f"echo begin; {AWAIT_SERVICE}; echo end >&2; exit 37"
        thread = threading.Thread(target=lambda: results.append(early.exec(across, timeout=SECONDS)))
        thread.start()
        console.expect("another agent accepts the connections now", SECONDS)
        with connect(machine) as later:
            service = run(later, "echo $PPID")
            assert service != first
            assert run(later, MAIN_PID) == service
            assert run(later, AWAIT_BOOT) == "running"
            scores = f"cd /proc; cat {first}/oom_score_adj {service}/oom_score_adj self/oom_score_adj"
            assert run(later, scores).split() == ["-1000", "-1000", "0"]
        thread.join()
        assert [(r.exit_code, r.stdout, r.stderr) for r in results] == [(37, "begin\n", "end\n")]
        assert run(early, "cat /proc/self/oom_score_adj; echo $PPID") == f"0\n{first}"
    with connect(machine) as later:
        run(later, AWAIT_ONE_AGENT)


def test_the_service_is_restarted_as_an_administrator_expects(
    start: Start,
) -> None:
    machine, _, early = start()
    with early:
        run(early, AWAIT_BOOT)
        before = run(early, MAIN_PID)
        run(early, "systemctl restart bouvet-agent")
        with connect(machine) as later:
            restarted = run(later, "echo $PPID")
            assert restarted != before
            assert run(later, MAIN_PID) == restarted
        run(early, f"kill -9 {restarted}")
        with connect(machine) as later:
            again = run(later, "echo $PPID")
            assert again not in (before, restarted)
            assert run(later, MAIN_PID) == again
            assert run(later, "systemctl is-system-running") == "running"


def test_a_process_from_before_systemd_keeps_its_output_and_its_end(start: Start) -> None:
    machine, console, early = start()
    lines = 20_000
    command = f"seq 1 {lines}; {AWAIT_SERVICE}; seq {lines + 1} {2 * lines}; exit 37"
    with early:
        process = early.processes.start(command)
        events = process.events(timeout=SECONDS)
        output = b""
        while not output.endswith(f"\n{lines}\n".encode()):
            output += next(event.data for event in events if isinstance(event, Output))
        console.expect("another agent accepts the connections now", SECONDS)
        with connect(machine) as later:
            # The one that accepts knows only what it has started itself.
            assert later.processes.list() == ()
        rest = list(events)
        output += b"".join(event.data for event in rest if isinstance(event, Output))
        assert output.decode().split() == [str(number) for number in range(1, 2 * lines + 1)]
        assert isinstance(rest[-1], Exit)
        assert rest[-1].ending.exit_code == 37
        assert not any(isinstance(event, Gap) for event in rest)
        # Its first watcher is gone; it is still known where it was started.
        again = early.processes.attach(process.id, offsets={"stdout": len(output) - 6})
        assert [event.data for event in again.events(timeout=SECONDS) if isinstance(event, Output)] == [
            output[-6:]
        ]


def test_a_restart_during_a_stream_tells_what_became_of_it(start: Start) -> None:
    machine, _, early = start()
    with early:
        run(early, AWAIT_BOOT)
    with connect(machine) as client, connect(machine) as other:
        # systemd and the agent may both ask it to end: it says so once.
        process = client.processes.start(
            "seq 1 1000; trap 'trap : TERM; echo last; exit 9' TERM; while :; do sleep 0.1; done"
        )
        events = process.events(timeout=SECONDS)
        output = b""
        while not output.endswith(b"\n1000\n"):
            output += next(event.data for event in events if isinstance(event, Output))
        before = run(other, MAIN_PID)
        other.exec("systemctl restart --no-block bouvet-agent")  # which may end it, too
        rest = list(events)
        # Its process is ended with the agent that started it; not a byte of what it said is missing.
        said = [event for event in rest if isinstance(event, Output) and event.stream == "stdout"]
        assert said == [Output("stdout", len(output), b"last\n")]
        assert not any(isinstance(event, Gap) for event in rest)
        assert isinstance(rest[-1], Exit)
        assert rest[-1].ending.exit_code == 9
        # The one that ends may still accept: its last connection goes with it.
        with pytest.raises(ConnectionLost):
            ping_on(other)
    with connect(machine) as later:
        run(later, AWAIT_SERVICE)
        assert run(later, MAIN_PID) != before


def test_an_early_agent_that_crashes_is_followed_by_another(start: Start) -> None:
    # The service is left out, so that only the monitor can have started it.
    machine, console, early = start("systemd.mask=bouvet-agent.service")
    with early:
        first = run(early, "echo $PPID")
        with pytest.raises(AgentError):
            early.exec("kill -9 $PPID", timeout=SECONDS)
    console.expect("the agent has crashed")
    with connect(machine) as again:
        second = run(again, "echo $PPID")
        assert second != first
        monitor = run(again, f"awk '/^PPid:/ {{ print $2 }}' /proc/{second}/status")
        assert monitor != "1"
        scores = f"cd /proc; cat {monitor}/oom_score_adj {second}/oom_score_adj self/oom_score_adj"
        assert run(again, scores).split() == ["-1000", "-1000", "0"]
        assert run(again, AWAIT_BOOT) == "running"
        # An administrator's agent takes over from this one as from the first.
        run(again, "setsid --fork /usr/local/bin/bouvet-agent </dev/null >/dev/null 2>&1")
        console.expect("another agent accepts the connections now", SECONDS)
        with connect(machine) as later:
            assert run(later, "echo $PPID") not in (first, second)
            run(later, f"while [ -e /proc/{monitor} ]; do sleep 0.1; done")


def another_init(directory: Path, program: str) -> bytes:
    """Return the init of an initial file system that starts a program of the image."""
    compiled, source = directory / "init", Path(__file__).with_name("another_init.c")
    flags = ["-static", "-Os", "-Wall", "-Wextra", "-Werror", f'-DPROGRAM="{program}"']
    subprocess.run(["gcc", *flags, "-o", compiled, source], check=True, timeout=60)
    return compiled.read_bytes()


@pytest.mark.parametrize(
    ("program", "options"),
    [("/usr/local/bin/bouvet-agent", []), ("/sbin/init", ["--set", "agent_first=true"])],
    ids=["named by the command line", "in the init's place"],
)
def test_the_agent_is_the_init_of_another_initial_file_system(
    start: Start, base_image: BuiltImage, tmp_path: Path, program: str, options: list[str]
) -> None:
    image = build_image("base", tmp_path / "built", *options) if options else base_image
    machine, console, early = start(agent=another_init(tmp_path, program), image=image.path)
    with early:
        console.expect(f"another init starts {program}")
        first = run(early, "echo $PPID")
        assert run(early, AWAIT_BOOT) == "running"
        assert run(early, "cat /proc/1/comm") == "systemd"
        with connect(machine) as later:
            assert run(later, MAIN_PID) == run(later, "echo $PPID") != first
            assert "tmpfs" in run(later, "findmnt -no FSTYPE,OPTIONS /run")
            assert "to the init daemon" in run(later, "/sbin/init --help")
    with connect(machine) as later:
        run(later, AWAIT_ONE_AGENT)


def test_a_word_of_the_kernels_leaves_the_agent_to_its_service(
    start: Start,
) -> None:
    _, _, client = start("bouvet.early=off")
    with client:
        assert run(client, f"[ $({MAIN_PID}) = $PPID ] && echo same") == "same"
        assert run(client, AWAIT_BOOT) == "running"
        assert run(client, AWAIT_ONE_AGENT) == ""
