"""What the agent does to the machine as a whole, in a real image's boot."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bouvet.booting import await_agent
from bouvet.protocol import RequestRefused
from bouvet.sandbox import AgentClient, dial
from bouvet.vm.machine import MIB, MachineConfig
from bouvet.vm.qemu import QemuMachine
from tests.conftest import BuiltImage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap", "depmod", "gcc"),
]

SECONDS = 200.0
"""Far more than a boot and a command take, for busy hosts."""

AWAIT_BOOT = "until systemctl is-system-running --wait 2>&1 | grep -E 'running|degraded'; do sleep 0.1; done"


@pytest.fixture
def machine(configure: Callable[..., MachineConfig], base_image: BuiltImage) -> Iterator[QemuMachine]:
    """A machine that boots the preset's image."""
    machine = QemuMachine(configure(image=base_image.path, memory=512 * MIB))
    machine.start()
    yield machine
    machine.kill()


def test_a_clone_becomes_a_machine_of_its_own_and_ends_in_order(machine: QemuMachine, tmp_path: Path) -> None:
    """One boot for all: a step that fails leaves the later ones nothing to build on."""
    await_agent(machine, SECONDS)[0].close()

    def connect() -> socket.socket:
        return dial(
            machine.socket_path,
            deadline=time.monotonic() + SECONDS,
            ended=lambda seconds: machine.wait(seconds) is not None,
        )

    with AgentClient(connect(), connect=connect) as client:
        client.exec(AWAIT_BOOT, timeout=SECONDS)
        before = client.system.info()
        assert before.image is not None
        assert before.hostname == "bouvet"

        now = time.time_ns()
        resume = partial(
            client.system.resume, time_ns=now + 10**12, entropy=os.urandom(64), hostname="clone-7"
        )
        resumed = resume("first")
        assert resumed.changed == {"clock", "entropy", "machine_id", "hostname"}
        assert (resumed.failed, resumed.repeated) == ({}, False)
        after = client.system.info()
        assert (after.hostname, after.boot_id) == ("clone-7", before.boot_id)
        assert after.machine_id != before.machine_id
        assert len(after.machine_id) == 32
        assert client.exec("getent hosts clone-7").exit_code == 0
        assert int(client.exec("date +%s").stdout) >= (now + 10**12) // 10**9
        assert resume("first").changed == frozenset()
        assert client.system.info().machine_id == after.machine_id
        assert -(11 * 10**11) < client.system.set_clock(time.time_ns()) < -(9 * 10**11)

        memory = client.system.metrics()["memory"]
        assert 400 * MIB < memory["total"] < 512 * MIB
        assert client.system.metrics()["agent"]["resident"] < 8 * MIB

        client.exec("systemd-cat -t told echo alpha; journalctl --sync")
        first = client.system.logs(lines=1000)
        assert client.system.logs(lines=1).more
        assert any("alpha" in line for line in first.lines)
        client.exec("systemd-cat -t told echo omega; journalctl --sync")
        later = client.system.logs(lines=1000, cursor=first.cursor)
        assert any("omega" in line for line in later.lines)
        assert not any("alpha" in line for line in later.lines)
        # The time of the last of them, by the journal itself.
        last = client.exec("journalctl -t told -n 1 -o export | sed -n s/^__REALTIME_TIMESTAMP=//p").stdout
        since = client.system.logs(lines=1000, since_ns=1000 * int(last))
        assert any("omega" in line for line in since.lines)
        assert not any("alpha" in line for line in since.lines)

        content = os.urandom(20 * MIB)
        (tmp_path / "sent").write_bytes(content)
        client.files.upload(tmp_path / "sent", "/root/file", timeout=SECONDS)
        client.files.download("/root/file", tmp_path / "back", timeout=SECONDS)
        assert (tmp_path / "back").read_bytes() == content

        client.exec("useradd --create-home --user-group visitor")
        client.files.upload(tmp_path / "back", "new/file", user="visitor", timeout=SECONDS)
        owners = client.exec("stat -c %U:%G /home/visitor/new /home/visitor/new/file").stdout.split()
        assert owners == ["visitor:visitor"] * 2
        with pytest.raises(RequestRefused) as refusal:
            client.files.upload(tmp_path / "back", "/etc/new", user="visitor", timeout=SECONDS)
        assert refusal.value.errno == "EACCES"

        asked = time.monotonic()
        client.system.shutdown(delay=2)
        client.ping()
        assert time.monotonic() < asked + 2
    assert machine.wait(SECONDS) is not None
