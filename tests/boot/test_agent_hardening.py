"""What commands do to a machine, and the agent outlives: one guest for all tests, in their order.

The agent's size is VmRSS of proc(5), and VmHWM, the most that it ever was: the pages of its program, which
are shared with the disk's cache, count as well. Each test begins with the present size as the peak.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bouvet.booting import BootOptions, boot
from bouvet.protocol import ExecResult, encode_request
from bouvet.sandbox import (
    AgentClient,
    CommandOptions,
    ConnectionLost,
    ProcessOptions,
    RequestRefused,
    Sandbox,
    connect,
    dial,
)
from bouvet.vm.machine import MIB
from tests.conftest import USER_CACHE, BuiltImage

pytestmark = [pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap", "gcc"), pytest.mark.slow]

SECONDS = 200.0
"""Far more than anything here takes, for busy hosts."""

LARGEST = 8 * MIB
"""What the agent never has more of, resident in memory."""

LARGEST_IDLE = 4.5 * MIB

ALMOST_NOTHING = 24 * MIB
"""Memory that is left when the kernel has begun to drop whatever it can."""

NEVER_KILLED = "-1000"
"""What the kernel's killer for want of memory adds to a process's score: proc(5), oom_score_adj."""


@dataclass
class Guest:
    """The machine, a client of its agent, and the agent's process id."""

    sandbox: Sandbox
    client: AgentClient
    agent: int

    def run(self, command: str, options: CommandOptions | None = None) -> ExecResult:
        return self.client.exec(command, options, timeout=SECONDS)

    def status(self, name: str) -> int:
        """Return a size of the agent's in bytes, read without starting anything."""
        found = re.search(
            rf"^{name}:\s+(\d+) kB$", self.client.read_file(f"/proc/{self.agent}/status"), re.MULTILINE
        )
        assert found is not None
        return int(found[1]) * 1024

    def connect(self) -> socket.socket:
        machine = self.sandbox.machine
        return dial(
            machine.socket_path,
            deadline=time.monotonic() + SECONDS,
            ended=lambda seconds: machine.wait(seconds) is not None,
        )

    def reconnect(self) -> None:
        """Connect to the agent that runs now, and learn its process id."""
        deadline = time.monotonic() + SECONDS
        while True:
            self.client = AgentClient(self.connect(), connect=self.connect)
            try:
                self.agent = int(self.run("echo $PPID").stdout)
            except ConnectionLost:  # one that has just been killed may still be connected to
                assert time.monotonic() < deadline
                self.client.close()
            else:
                break


@pytest.fixture(scope="module")
def booted(base_image: BuiltImage) -> Iterator[Guest]:
    """The machine, when systemd has started everything, and its service is the agent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(USER_CACHE))
        with boot(base_image.path, BootOptions(ready=SECONDS)) as sandbox:
            sandbox.system_state(timeout=SECONDS)
            guest = Guest(sandbox, sandbox.client, 0)
            guest.reconnect()
            yield guest
            guest.client.close()


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """The machine; after the test its agent must be well, and must have been small all the time."""
    booted.client.files.write(f"/proc/{booted.agent}/clear_refs", b"5")  # the peak begins anew
    yield booted
    with booted.sandbox.another_client() as another:
        another.ping(timeout=SECONDS)
    assert booted.run("echo well").stdout == "well\n"
    assert booted.client.read_file(f"/proc/{booted.agent}/oom_score_adj").strip() == NEVER_KILLED
    assert booted.status("VmHWM") <= LARGEST


def test_idle(guest: Guest) -> None:
    assert guest.status("VmRSS") <= LARGEST_IDLE


def test_a_full_disk(guest: Guest) -> None:
    guest.client.write_file("/root/kept", "old")
    fill = "fallocate -l $(df --output=avail -B1 / | tail -n 1) /fill; cat /dev/zero > /fill-rest"
    assert "No space left" in guest.run(fill).stderr
    try:
        with pytest.raises(RequestRefused) as refused:
            guest.client.write_file("/root/kept", "n" * MIB)
        assert refused.value.errno == "ENOSPC"
        with pytest.raises(RequestRefused) as refused:
            guest.client.files.write("/root/kept", b"n" * MIB)
        assert refused.value.errno == "ENOSPC"
        assert guest.client.read_file("/root/kept") == "old"
        assert guest.run("echo x > /root/new").exit_code != 0
        assert guest.run("cat /root/kept").stdout == "old"
    finally:
        for name in ("/fill", "/fill-rest"):
            guest.client.files.remove(name)
    guest.client.write_file("/root/kept", "new")
    assert guest.run("cat /root/kept").stdout == "new"


def test_no_free_memory(guest: Guest) -> None:
    """What the kernel can drop it drops, programs' pages as well; the agent answers all the same."""
    hog = guest.client.processes.start("exec tail /dev/zero", ProcessOptions(watched=False))

    def available() -> int:
        return int(guest.client.system.metrics(timeout=SECONDS)["memory"]["available"])

    while hog.wait(timeout=0) is None and available() > ALMOST_NOTHING:
        pass
    for _ in range(20):
        guest.client.ping(timeout=SECONDS)
        with guest.sandbox.another_client() as another:
            another.ping(timeout=SECONDS)
    hog.kill()
    end = hog.wait(timeout=SECONDS)
    assert end is not None
    assert end.ending.signal == "SIGKILL"  # this one's, or the kernel's


def test_no_free_process(guest: Guest) -> None:
    """Nothing can be started in the whole machine, not even a thread of the agent's."""
    limit = "/proc/sys/kernel/threads-max"
    before = guest.client.read_file(limit)
    guest.client.write_file(limit, "20")  # the least that Linux takes; more are running
    try:
        assert guest.run("true").exit_code == -1
        with pytest.raises(RequestRefused) as refused:
            guest.client.processes.start("true")
        assert refused.value.errno == "EAGAIN"
        with guest.client.files.open_upload("/root/uploaded", timeout=SECONDS) as stream:
            stream.write(b"x" * MIB)
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            reads = [pool.submit(guest.client.files.read, "/root/uploaded", length=4096) for _ in range(640)]
            assert all(read.result(SECONDS).data == b"x" * 4096 for read in reads)
        with guest.sandbox.another_client() as another:
            another.ping(timeout=SECONDS)
    finally:
        guest.client.write_file(limit, before)
    assert guest.run("true").exit_code == 0


def test_a_fork_bomb(guest: Guest) -> None:
    """It has half of the machine's processes at most; it is given fewer here, which takes less time."""
    bomb = guest.client.processes.start(
        "bomb() { bomb | bomb & }; bomb; exec sleep 1000", ProcessOptions(watched=False)
    )
    group = guest.client.read_file(f"/proc/{bomb.pid}/cgroup").strip().removeprefix("0::")
    limit = f"/sys/fs/cgroup{group}/pids.max"
    assert (
        int(guest.client.read_file(limit)) == int(guest.client.read_file("/proc/sys/kernel/threads-max")) // 2
    )
    guest.client.write_file(limit, "300")
    while guest.client.read_file(f"/sys/fs/cgroup{group}/pids.events") == "max 0\n":
        assert bomb.wait(timeout=0) is None
    assert guest.run("echo room for others").stdout == "room for others\n"
    bomb.kill()
    end = bomb.wait(timeout=SECONDS)
    assert end is not None
    assert end.ending.signal == "SIGKILL"
    while guest.client.read_file(f"/sys/fs/cgroup{group}/pids.current") != "0\n":
        guest.client.ping(timeout=SECONDS)


def test_output_that_nobody_reads(guest: Guest) -> None:
    """Two processes wait for the reader, two do not and lose output, and so does a fifth, which ends."""

    def started() -> dict[str, bool]:
        """Return whether they run, by their ids."""
        processes = guest.client.processes.list()
        return {p.id: p.running for p in processes if p.command.startswith(endless)}

    endless = "exec cat /dev/zero"
    with contextlib.closing(connect(guest.sandbox.machine.socket_path)) as silent:
        for number in range(4):
            silent.sendall(encode_request(number, "process.start", {"cmd": endless, "lossless": number < 2}))
        params = {"cmd": f"{endless} | head -c 50000000", "lossless": False}
        silent.sendall(encode_request(4, "process.start", params))
        while len(started()) < 5 or all(started().values()):
            guest.client.ping(timeout=SECONDS)
        assert sorted(started().values()) == [False, True, True, True, True]
        with guest.sandbox.another_client() as another:
            for identifier in started():
                another.processes.attach(identifier).kill()
    while any(started().values()):
        guest.client.ping(timeout=SECONDS)


def test_ten_thousand_processes(guest: Guest, tmp_path: Path) -> None:
    """They end as orphans: it is the agent that has to collect them."""
    program, source = tmp_path / "orphans", Path(__file__).with_name("orphans.c")
    subprocess.run(
        ["gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", program, source],
        check=True,
        timeout=60,
    )
    guest.client.files.upload(program, "/root/orphans")
    before = guest.client.system.metrics()["agent"]
    assert guest.run("exec /root/orphans").exit_code == 0
    while guest.run("grep -l '^State:.Z' /proc/[0-9]*/status").stdout:
        guest.client.ping(timeout=SECONDS)
    after = guest.client.system.metrics()["agent"]
    assert after["descriptors"] <= before["descriptors"] + 2


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Let this process have more files open than the 1,024 of many shells."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_connections(guest: Guest) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(guest.connect()) for _ in range(1000)]
        for _ in range(2):
            for number, connection in enumerate(connections):
                connection.settimeout(SECONDS)
                connection.sendall(encode_request(number, "ping", {}))
            for number, connection in enumerate(connections):
                assert json.loads(connection.makefile().readline())["id"] == number
        assert guest.client.system.metrics()["agent"]["connections"] >= 1000
        assert guest.run("echo $PPID").stdout == f"{guest.agent}\n"
    while guest.client.system.metrics()["agent"]["connections"] > 10:
        guest.client.ping(timeout=SECONDS)


def test_a_kill_of_everything(guest: Guest) -> None:
    """The last test: it ends what else the guest runs as well."""
    killed = []
    for _ in range(2):
        killed.append(guest.agent)
        with pytest.raises(ConnectionLost):
            guest.run("kill -9 -1")
        guest.client.close()
        guest.reconnect()
        assert guest.agent not in killed
    unit = guest.run("systemctl show -P MainPID -P NRestarts bouvet-agent").stdout.split()
    assert unit[0] == str(guest.agent)
