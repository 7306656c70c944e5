"""Machines run by QEMU: what a guest gets, and each way in which a machine can end."""

from __future__ import annotations

import hashlib
import os
import pickle
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet.errors import MachineError
from bouvet.formats.tree import directory
from bouvet.vm import recorder
from bouvet.vm.machine import GIB, EndReason, MachineConfig
from bouvet.vm.qemu import QemuMachine
from bouvet.vm.terminal import LEAVE_KEY, attach_terminal
from bouvet.vm.unprivileged import NOBODY
from tests.boot.conftest import SECONDS_TO_BOOT, Boot, write_image

pytestmark = pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap", "depmod", "gcc")

SECONDS_TO_TELL = 2.0
"""How soon an end has to be told once it is knowable."""


def processes_of(machine: QemuMachine) -> list[int]:
    parts = machine._running
    return [parts.qemu.pid, parts.backend.process.pid]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What a guest gets.


def test_a_boot_reports_how_far_it_came(boot: Boot) -> None:
    machine, console = boot("wait")
    console.expect("the guest will wait")
    timings = machine.timings
    assert timings.kernel is not None
    assert timings.init is not None
    assert timings.handover is not None
    assert timings.init_guest is not None
    assert timings.handover_guest is not None
    assert 0 < timings.kernel < timings.init < timings.handover < time.monotonic() - machine.started
    assert 0 < timings.init_guest < timings.handover_guest
    assert (timings.agent, timings.answer) == (None, None)


def test_the_disk_is_larger_than_the_image_and_modules_are_there(boot: Boot, image: Path) -> None:
    machine, console = boot("disks")
    text = console.expect("modules: ")
    assert f"/dev/vda: {image.stat().st_size + 2 * GIB} bytes, read-only 0" in text
    modules = machine.config.kernel.modules_disk
    assert modules is not None
    assert f"/dev/vdb: {modules.stat().st_size} bytes, read-only 1" in text
    console.expect("modules: there")


def test_the_disk_has_the_size_that_was_asked_for(boot: Boot, image: Path) -> None:
    _, console = boot("disks", disk_size=image.stat().st_size)
    console.expect(f"/dev/vda: {image.stat().st_size} bytes, ")


def test_machines_share_an_image_and_never_change_it(boot: Boot, image: Path) -> None:
    before = digest(image)
    consoles = [boot("fill")[1] for _ in range(3)]
    for console in consoles:
        text = console.expect("written")
        assert "fresh" in text
        assert "not written" not in text
    _, console = boot("fill")
    assert "fresh" in console.expect("written")
    assert digest(image) == before


def test_a_network_card_is_there_only_when_asked_for(boot: Boot) -> None:
    # virtio device ids: 1 network card, 2 disk, 19 vsock
    _, console = boot("devices")
    assert sorted(re.findall("virtio device (0x[0-9a-f]+)", console.expect("no more devices"))) == [
        "0x0002", "0x0002", "0x0013",
    ]  # fmt: skip
    _, console = boot("devices", network=True)
    assert "virtio device 0x0001" in console.expect("no more devices")


def test_the_guests_clock_is_right_and_keeps_pace(boot: Boot) -> None:
    machine, _ = boot("clock")
    arrivals: list[tuple[float, float]] = []  # the guest's time and the host's
    up = threading.Event()
    partial = b""

    def take(piece: bytes) -> None:
        nonlocal partial
        *lines, partial = (partial + piece).split(b"\n")
        arrivals.extend((float(line[5:]), time.time()) for line in lines if line.startswith(b"time 1"))
        if b"time is up\r" in lines:
            up.set()

    machine.mirror_console(take)
    assert up.wait(SECONDS_TO_BOOT)
    (guest, host), (later_guest, later_host) = arrivals[0], arrivals[-1]
    assert later_guest - guest > 1.5
    assert abs((later_guest - guest) - (later_host - host)) < 0.5
    # The machine's battery clock, where the guest's time comes from, counts whole seconds.
    assert abs(later_guest - later_host) < 2.5


def test_keys_reach_the_guest(boot: Boot) -> None:
    machine, console = boot("echo")
    console.expect("the guest will echo")
    machine.type_on_console(b"hello\n")
    console.expect("heard: hello")


def test_a_run_directory_with_a_long_path(boot: Boot, tmp_path: Path) -> None:
    base = tmp_path / ("d" * 100) / "run"
    base.parent.mkdir()
    machine, console = boot("wait", run_base=base)
    assert len(str(machine.socket_path)) > 108
    console.expect("the guest will wait")


@pytest.mark.needs_root
def test_qemu_does_not_run_as_root(boot: Boot) -> None:
    machine, console = boot("wait")
    console.expect("the guest will wait")
    status = Path(f"/proc/{processes_of(machine)[0]}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["Uid"].split() == [str(NOBODY)] * 4
    assert fields["Gid"].split() == [str(NOBODY)] * 4
    assert fields["Groups"].split() == []
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")} == {0}


# The terminal.


def test_a_terminal_shows_the_console_and_is_as_before_at_the_end(boot: Boot) -> None:
    machine, console = boot("echo")
    console.expect("the guest will echo")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    attached = threading.Thread(target=attach_terminal, args=(machine, theirs, theirs))
    attached.start()
    screen = b""
    os.write(ours, b"typed\r")
    while b"heard: typed" not in screen:
        ready, _, _ = select.select([ours], [], [], SECONDS_TO_BOOT)
        assert ready, screen
        screen += os.read(ours, 4096)
    assert termios.tcgetattr(theirs) != before
    os.write(ours, LEAVE_KEY)
    attached.join(SECONDS_TO_TELL)
    assert not attached.is_alive()
    assert termios.tcgetattr(theirs) == before
    assert machine.wait(0) is None
    os.close(ours)
    os.close(theirs)


def test_a_terminal_is_left_when_the_machine_ends(boot: Boot) -> None:
    machine, console = boot("wait")
    console.expect("the guest will wait")
    reader, writer = os.pipe()  # not a terminal, and nobody types
    attached = threading.Thread(target=attach_terminal, args=(machine, reader, writer))
    attached.start()
    machine.kill()
    attached.join(SECONDS_TO_TELL)
    assert not attached.is_alive()
    os.close(reader)
    os.close(writer)


# How machines end.


@pytest.mark.parametrize(
    ("behave", "reason", "message"),
    [
        ("poweroff", EndReason.POWERED_OFF, "powered off"),
        ("restart", EndReason.POWERED_OFF, "restarted"),
        ("panic", EndReason.PANICKED, "Attempted to kill init"),
    ],
)
def test_the_guest_ends_itself(boot: Boot, behave: str, reason: EndReason, message: str) -> None:
    machine, console = boot(behave)
    console.expect(f"the guest will {behave}")
    told = time.monotonic()
    end = machine.wait(SECONDS_TO_BOOT)
    assert end is not None
    assert (end.reason, message in end.message) == (reason, True)
    assert f"the guest will {behave}" in end.details
    assert time.monotonic() - told < SECONDS_TO_TELL
    assert not machine.run_directory.exists()
    assert machine.wait() is end
    machine.kill()


@pytest.mark.parametrize(
    ("victim", "reason", "message"),
    [
        (0, EndReason.MONITOR_DIED, "QEMU was killed by signal 9"),
        (1, EndReason.VSOCK_DIED, "vsock backend was killed by signal 9"),
    ],
)
def test_one_of_its_processes_is_killed(
    boot: Boot,
    wait_for_exit: Callable[[int, float], bool],
    victim: int,
    reason: EndReason,
    message: str,
) -> None:
    machine, console = boot("wait")
    console.expect("the guest will wait")
    processes = processes_of(machine)
    os.kill(processes[victim], signal.SIGKILL)
    told = time.monotonic()
    end = machine.wait(SECONDS_TO_BOOT)
    assert end is not None
    assert (end.reason, message in end.message) == (reason, True)
    assert "the guest will wait" in end.details
    assert time.monotonic() - told < SECONDS_TO_TELL
    assert not machine.run_directory.exists()
    assert all(wait_for_exit(process, 0) for process in processes)
    with pytest.raises(MachineError, match="killed by signal 9"):
        raise end.error()


def test_its_owner_kills_it(boot: Boot, wait_for_exit: Callable[[int, float], bool]) -> None:
    machine, console = boot("wait")
    console.expect("the guest will wait")
    processes = processes_of(machine)
    machine.kill()
    end = machine.wait(0)
    assert end is not None
    assert end.reason is EndReason.KILLED
    assert not machine.run_directory.exists()
    assert all(wait_for_exit(process, 0) for process in processes)
    assert machine.console_tail(1) == ("the guest will wait",)
    machine.kill()


def test_an_image_without_init_cannot_boot(boot: Boot, tmp_path: Path) -> None:
    empty = write_image({name: directory() for name in (b"dev", b"proc", b"sys")}, tmp_path / "empty.ext4")
    machine, _ = boot("wait", image=empty)
    end = machine.wait(SECONDS_TO_BOOT)
    assert end is not None
    assert end.reason is EndReason.BOOT_FAILED
    assert "/sbin/init" in end.message


def test_an_image_that_is_no_file_system_cannot_boot(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(1 << 20))
    machine, _ = boot("wait", image=tmp_path / "noise")
    end = machine.wait(SECONDS_TO_BOOT)
    assert end is not None
    assert end.reason is EndReason.BOOT_FAILED


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image", Path("/nowhere/image")),
        ("image", Path("/dev/null")),
        ("disk_size", 512),
        ("scratch", Path("/nowhere")),
    ],
)
def test_a_machine_that_cannot_start_leaves_nothing(boot: Boot, option: str, value: object) -> None:
    with pytest.raises(MachineError):
        boot("wait", **{option: value})


def test_a_guest_that_floods_its_console_fills_no_disk(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 16
    monkeypatch.setattr(recorder, "LOG_LIMIT", limit)
    machine, _ = boot("flood")
    flooded = threading.Event()
    count = 0

    def take(piece: bytes) -> None:
        nonlocal count
        count += len(piece)
        if count > 4 * limit:
            flooded.set()

    machine.mirror_console(take)
    assert flooded.wait(SECONDS_TO_BOOT)
    logs = machine.run_directory.glob("*.log*")
    assert 0 < sum(path.stat().st_size for path in logs) <= limit
    machine.kill()


# What happens to a machine when its owner goes.

OWNER = """
import os, pickle, sys
from bouvet.vm.qemu import QemuMachine
config = pickle.load(open(sys.argv[1], "rb"))
with QemuMachine(config) as machine:
    parts = machine._running
    print(machine.run_directory, parts.qemu.pid, parts.backend.process.pid, flush=True)
    machine.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_owner_is_killed(
    configure: Callable[..., MachineConfig],
    boot: Boot,
    wait_for_exit: Callable[[int, float], bool],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    stored = tmp_path / "config"
    stored.write_bytes(pickle.dumps(configure(kernel_arguments=("behave=wait",))))
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(stored)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        directory, *processes = owner.stdout.readline().split()
        owner.send_signal(number)
        try:
            owner.communicate(timeout=SECONDS_TO_TELL)
        except subprocess.TimeoutExpired:
            owner.kill()
            raise
    assert all(wait_for_exit(int(process), SECONDS_TO_TELL) for process in processes)
    assert Path(directory).exists() is (number == signal.SIGKILL)
    boot("wait")  # the next machine's start removes what is left
    assert not Path(directory).exists()
