"""The agent before the machine's init, and the service that succeeds it, in a real image's boot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bouvet.booting import await_agent
from bouvet.protocol import ExecResult
from bouvet.sandbox import AgentClient, dial
from bouvet.vm.machine import MIB, MachineConfig
from bouvet.vm.qemu import QemuMachine
from tests.boot.conftest import Console
from tests.conftest import BuiltImage

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

    def boot(*words: str) -> tuple[QemuMachine, Console, AgentClient]:
        config = configure(image=base_image.path, memory=512 * MIB, kernel_arguments=words)
        machines.append(QemuMachine(config))
        machines[-1].start()
        console = Console(machines[-1])
        return machines[-1], console, await_agent(machines[-1], SECONDS)[0]

    yield boot
    for machine in machines:
        machine.kill()


def connect(machine: QemuMachine) -> AgentClient:
    """Connect to whichever agent accepts."""
    return AgentClient(
        dial(
            machine.socket_path,
            deadline=time.monotonic() + SECONDS,
            ended=lambda seconds: machine.wait(seconds) is not None,
        )
    )


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


def test_a_word_of_the_kernels_leaves_the_agent_to_its_service(
    start: Start,
) -> None:
    _, _, client = start("bouvet.early=off")
    with client:
        assert run(client, f"[ $({MAIN_PID}) = $PPID ] && echo same") == "same"
        assert run(client, AWAIT_BOOT) == "running"
        assert run(client, AWAIT_ONE_AGENT) == ""
