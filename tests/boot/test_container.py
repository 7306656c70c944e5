"""A container image without systemd, booted: our own init, its network, its service, and its end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bouvet.booting import READY_SECONDS, BootOptions, await_agent, boot
from bouvet.order import Order
from bouvet.pipeline import build, verify_static
from bouvet.sandbox import ConnectionLost, Sandbox
from bouvet.spec import Spec
from bouvet.vm.machine import EndReason
from bouvet.vm.qemu import QemuMachine
from tests.conftest import TOOL_PATH, USER_CACHE
from tests.unit.layers.container_images import Blob, Layout, entry, folder, symlink, tar

pytestmark = pytest.mark.needs_tool("qemu-system-x86_64", "busybox")

SECONDS = 30.0
APPLETS = ("cat", "grep", "id", "ip", "kill", "ls", "poweroff", "ps", "sh", "sleep", "stat", "wget")
SERVICE = """#!/bin/sh
# Leaves an orphan behind that ends at once, tells what it was started with, and fails.
(sleep 0 &)
{ id; pwd; echo "arguments: $*"; cat; env; cat /etc/resolv.conf; } > /tmp/told
echo complete >> /tmp/told
exit 7
"""
CONFIGURATION = {
    "Entrypoint": ["service", "one"],
    "Cmd": ["two words"],
    "Env": ["GREETING=hello", "PATH=/bin:/usr/local/bin"],
    "User": "app",
    "WorkingDir": "/srv/app",
}


def minimal_image(path: Path) -> Layout:
    """Make an image of busybox in two layers, of which the second removes a part of the first."""
    busybox = Path(shutil.which("busybox", path=TOOL_PATH) or "").read_bytes()
    base = tar(
        folder("bin"), entry("bin/busybox", busybox, mode=0o755), entry("bin/removed", b"x"),
        *(symlink(f"bin/{applet}", "busybox") for applet in APPLETS),
        folder("sbin"), symlink("sbin/init", "/bin/busybox"), folder("etc"),
        entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:100:101::/srv:/bin/sh\n"),
        entry("etc/group", b"root:x:0:\napp:x:101:\nmore:x:63:app\n"),
    )  # fmt: skip
    own = tar(entry("bin/service", SERVICE.encode(), mode=0o755), entry("bin/.wh.removed"))
    layout = Layout(path)
    return layout.index(layout.image([Blob.gzipped(base), Blob.gzipped(own)], config=CONFIGURATION))


@pytest.fixture(scope="module")
def container_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image built from it."""
    directory = tmp_path_factory.mktemp("container")
    minimal_image(directory / "layout")
    spec = Spec.model_validate({"from": "oci:layout", "system": {"hostname": "tiny"}})
    target = directory / "image.ext4"
    build(Order(spec, "x86_64", "tiny", directory), target, cache=directory / "cache")
    return target


@pytest.fixture(scope="module")
def sandbox(container_image: Path) -> Iterator[Sandbox]:
    """A machine that has booted it, with a network card; the last test powers it off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(USER_CACHE))  # the kernel is there
        with boot(container_image, BootOptions(network=True, memory=256 << 20)) as sandbox:
            yield sandbox


def told(sandbox: Sandbox) -> list[str]:
    wait = "until grep -qs complete /tmp/told; do sleep 0.05; done; cat /tmp/told"
    return sandbox.run(wait, timeout=SECONDS).stdout.splitlines()


def test_the_image_is_what_it_must_be(container_image: Path) -> None:
    assert verify_static(container_image).failed == ()


def test_the_service_starts_as_the_image_says(sandbox: Sandbox) -> None:
    lines = told(sandbox)
    assert lines[0] == "uid=100(app) gid=101(app) groups=63(more),101(app)"
    assert lines[1:3] == ["/srv/app", "arguments: one two words"]
    assert {"GREETING=hello", "PATH=/bin:/usr/local/bin", "HOME=/srv"} <= set(lines)


def test_the_network_is_there_before_the_service(sandbox: Sandbox) -> None:
    assert any(line.startswith("nameserver ") for line in told(sandbox))
    addresses = sandbox.run("ip -4 addr; ip route", timeout=SECONDS).stdout
    assert "inet 127.0.0.1/8" in addresses
    assert "inet 10.0.2.15/24" in addresses
    assert "default via 10.0.2.2 dev eth0" in addresses


def test_the_service_that_ended_is_told_of_and_not_started_again(sandbox: Sandbox) -> None:
    told(sandbox)
    console = "\n".join(sandbox.machine.console_tail(200))
    assert console.count("the service runs") == 1
    assert "the service ended with status 7" in console


def test_orphans_are_collected(sandbox: Sandbox) -> None:
    told(sandbox)
    parents = "for i in 1 2 3 4 5; do (sleep 0.01 &); done"
    wait = "while grep -qs ') Z ' /proc/[0-9]*/stat; do sleep 0.05; done; grep -c . /proc/1/comm"
    assert sandbox.run(f"{parents}; {wait}", timeout=SECONDS).stdout == "1\n"


def test_file_systems_and_name_are_a_guests(sandbox: Sandbox) -> None:
    mounts = sandbox.run("cat /proc/mounts", timeout=SECONDS).stdout
    for place in ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/sys/fs/cgroup"):
        assert f" {place} " in mounts
    seen = sandbox.run(
        "cat /proc/sys/kernel/hostname; ls /bin/removed; echo x | cat /dev/stdin", timeout=SECONDS
    )
    assert seen.stdout == "tiny\nx\n"
    assert sandbox.system_state(timeout=SECONDS) == "no systemd"


def test_a_restored_machine_gets_an_address_anew(sandbox: Sandbox) -> None:
    client, _ = await_agent(cast(QemuMachine, sandbox.machine), READY_SECONDS)
    with client:
        assert "10.0.2.15" not in client.exec("ip addr flush dev eth0; ip -4 addr", timeout=SECONDS).stdout
        resumed = client.system.resume("restored", timeout=SECONDS)
        assert "network" in resumed.changed
        assert resumed.failed == {}
        addresses = client.exec("ip -4 addr; ip route", timeout=SECONDS).stdout
        assert "inet 10.0.2.15/24" in addresses
        assert "default via 10.0.2.2 dev eth0" in addresses
        again = client.system.resume("restored", timeout=SECONDS)
        assert (again.changed, again.repeated) == (frozenset(), True)


def test_an_agent_that_ends_is_started_again_and_the_machine_powers_off(sandbox: Sandbox) -> None:
    with pytest.raises(ConnectionLost):
        sandbox.run("kill -9 $PPID", timeout=SECONDS)
    client, _ = await_agent(cast(QemuMachine, sandbox.machine), READY_SECONDS)
    with client:
        client.ping()
        # While it starts a program the agent goes without.
        protected = "until grep -qx -e -1000 /proc/$PPID/oom_score_adj; do sleep 0.01; done"
        assert client.exec(protected, timeout=SECONDS).exit_code == 0
        with contextlib.suppress(ConnectionLost):  # its answer may be too late
            client.exec("sleep 1000 & poweroff", timeout=SECONDS)
    end = sandbox.machine.wait(SECONDS)
    assert end is not None
    assert end.reason is EndReason.POWERED_OFF
    console = "\n".join(sandbox.machine.console_tail(200))
    assert "powering off" in console
