"""vsock between host programs and a real kernel's driver."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bouvet.formats.tree import FileTree, directory, regular_file
from bouvet.vm.accelerator import choose_accelerator
from bouvet.vm.kernel import Kernel
from bouvet.vm.machine import MachineConfig
from bouvet.vm.qemu import QemuMachine
from tests.boot.conftest import AGENTS, Console, write_image
from tests.conftest import USER_CACHE
from tests.unit.vm.vsock_machine import ended, read, read_line

ECHO, SILENT, DIAL = 1000, 1001, 1002
PATIENCE = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.needs_tool("qemu-system-x86_64", "gcc")]


@pytest.fixture(scope="module")
def machine(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuMachine]:
    """A machine whose guest serves the three ports."""
    base = tmp_path_factory.mktemp("vsock")
    program = base / "guest"
    source = Path(__file__).with_name("vsock_guest.c")
    compiler = ["gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    subprocess.run(compiler, check=True, timeout=60)
    tree: FileTree = {name: directory() for name in (b"dev", b"proc", b"sys", b"lib/modules")}
    tree[b"sbin/init"] = regular_file(program.read_bytes(), 0o755)
    config = MachineConfig(
        image=write_image(tree, base / "guest.ext4"),
        kernel=kernel,
        agent=(AGENTS / f"bouvet-agent-{kernel.architecture}").read_bytes(),
        accelerator=choose_accelerator(kernel, USER_CACHE / "bouvet" / "kernels").accelerator,
        run_base=base / "run",
        scratch=base,
        memory=256 << 20,
    )
    with QemuMachine(config) as machine:
        Console(machine).expect("serving")
        yield machine
    assert list((base / "run").iterdir()) == []


Dial = Callable[[int], socket.socket]


@pytest.fixture
def dial(machine: QemuMachine) -> Iterator[Dial]:
    """Connect to a port of the guest; all connections are closed after the test."""
    programs = []

    def connect(port: int) -> socket.socket:
        program = socket.socket(socket.AF_UNIX)
        programs.append(program)
        program.settimeout(PATIENCE)
        program.connect(str(machine.socket_path))
        program.sendall(b"CONNECT %d\n" % port)
        return program

    yield connect
    for program in programs:
        program.close()


def opened(program: socket.socket) -> socket.socket:
    assert read_line(program).startswith(b"OK ")
    return program


def write_until_full(program: socket.socket) -> int:
    """Write until nothing is taken for a second; return how many bytes were."""
    program.settimeout(1)
    taken = 0
    try:
        while taken < 64 << 20:
            taken += program.send(bytes(1 << 16))
    except TimeoutError:
        program.settimeout(PATIENCE)
        return taken
    raise AssertionError("nothing ever holds the program up")


def test_many_bytes_come_back_as_they_were(dial: Dial) -> None:
    program = opened(dial(ECHO))
    content = random.Random(0).randbytes(16 << 20)
    sender = threading.Thread(target=program.sendall, args=(content,))
    sender.start()
    assert read(program, len(content)) == content
    sender.join()


def test_hundreds_of_connections_at_once(dial: Dial) -> None:
    programs = [dial(ECHO) for _ in range(200)]
    for number, program in enumerate(programs):
        opened(program).sendall(b"%03d" % number * 1000)
    for number, program in enumerate(programs):
        assert read(program, 3000) == b"%03d" % number * 1000


def test_a_port_on_which_nothing_listens(dial: Dial) -> None:
    assert ended(dial(999))


def test_a_guest_program_that_does_not_read_holds_up_nobody_else(dial: Dial) -> None:
    silent, lively = opened(dial(SILENT)), opened(dial(ECHO))
    assert write_until_full(silent) < 1 << 20
    lively.sendall(b"alive")
    assert read(lively, 5) == b"alive"


def test_a_host_program_that_does_not_read_holds_up_nobody_else(dial: Dial) -> None:
    silent, lively = opened(dial(ECHO)), opened(dial(ECHO))
    taken = write_until_full(silent)
    lively.sendall(b"alive")
    assert read(lively, 5) == b"alive"
    assert read(silent, taken) == bytes(taken)


def test_the_guest_connects_to_a_program_on_the_host(machine: QemuMachine, dial: Dial) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(machine.socket_path.with_name("v.sock_7000")))
        listener.listen()
        program = opened(dial(DIAL))
        program.sendall(struct.pack("=I", 7000))
        other, _ = listener.accept()
        with other:
            other.settimeout(PATIENCE)
            program.sendall(b"to the host")
            assert read(other, 11) == b"to the host"
            other.sendall(b"to the guest")
            assert read(program, 12) == b"to the guest"
            program.close()
            assert ended(other)


def test_the_guest_connects_where_nothing_listens(dial: Dial) -> None:
    program = opened(dial(DIAL))
    program.sendall(struct.pack("=I", 7001))
    assert read(program, 7) == b"refused"
    assert ended(program)
