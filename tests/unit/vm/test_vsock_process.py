"""The vsock backend as a process: its life, its end, what it leaves and what it may do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet.errors import FormatError, MachineError
from bouvet.formats.virtio import vhost_user
from bouvet.formats.virtio.vhost_user import Request
from bouvet.formats.virtio.vsock import HEADER_SIZE, Operation
from bouvet.vm.vsock import start_vsock_backend
from tests.formats.virtio.driver import PATIENCE, FrontEnd, Guest
from tests.unit.vm.vsock_machine import UNCONFINED, Machine, ended

# QEMU and the device's life.


def test_a_program_is_refused_before_the_driver_is_ready(run_directory: Path) -> None:
    with start_vsock_backend(run_directory) as backend, socket.socket(socket.AF_UNIX) as program:
        program.settimeout(PATIENCE)
        program.connect(str(backend.socket_path))
        program.sendall(b"CONNECT 52\n")
        assert ended(program)


def test_a_pause_keeps_connections_and_a_reset_drops_them(machine: Machine) -> None:
    program, peer = machine.connect()
    bases = machine.front_end.stop()
    program.sendall(b"while it sleeps")
    machine.front_end.start(bases)
    assert machine.front_end.read(peer, 15) == b"while it sleeps"
    machine.front_end.stop()
    machine.guest.memory.close()
    machine.front_end.attach(Guest())
    machine.front_end.start()
    machine.guest.fill()
    assert ended(program)
    machine.connect()


def test_buffers_that_were_not_used_are_given_back_in_a_pause(machine: Machine) -> None:
    """A read takes several of the guest's buffers at once; the ring's position counts only used ones."""
    program, peer = machine.connect()
    for length in (1, 20_000, 40_000, 3):
        program.sendall(bytes(length))
        machine.front_end.read(peer, length)
    used = machine.guest.receive.used_words[1]
    assert machine.front_end.stop()[0] == used


def test_a_ring_without_events_of_used_buffers_is_served(machine: Machine) -> None:
    """QEMU takes the event away while the guest masks its interrupt."""
    machine.front_end.tell(Request.SET_VRING_CALL, vhost_user.U64.pack(0 | 1 << 8))
    machine.guest.send(Operation.DATA, 1, 1)
    machine.front_end.tell(Request.SET_OWNER)
    machine.front_end.tell(Request.SET_VRING_CALL, vhost_user.U64.pack(0), [machine.front_end.calls[0]])
    machine.front_end.expect(Operation.RESET)


def test_the_backend_ends_with_qemu_and_leaves_nothing(machine: Machine) -> None:
    program, _ = machine.connect()
    machine.front_end.socket.close()
    assert machine.backend.process.wait(PATIENCE) == 0
    assert ended(program)
    assert [path.name for path in machine.run_directory.iterdir()] == ["vsock.log"]
    assert machine.complaints() == []


@pytest.mark.parametrize(
    ("request_number", "payload"),
    [
        (99, b""),
        (Request.SET_VRING_NUM, vhost_user.VRING_STATE.pack(7, 64)),
        (Request.SET_VRING_NUM, b"short"),
        (Request.SET_MEM_TABLE, vhost_user.MEMORY_TABLE.pack(1, 0) + bytes(32)),
        (Request.SET_MEM_TABLE, vhost_user.MEMORY_TABLE.pack(9999, 0)),
        (Request.SET_VRING_KICK, vhost_user.U64.pack(1 << 8)),
        (Request.SET_FEATURES, vhost_user.U64.pack(1 << 5)),
        (Request.SET_VRING_CALL, bytes(2000)),
    ],
)
def test_a_message_that_makes_no_sense_ends_the_backend(
    machine: Machine, request_number: int, payload: bytes
) -> None:
    machine.front_end.send(request_number, payload)
    assert machine.backend.process.wait(PATIENCE) == FormatError.exit_code
    last = machine.complaints()[-1]
    assert "vhost-user message" in last or "QEMU" in last


@pytest.mark.parametrize("request_number", [Request.SET_VRING_KICK, Request.SET_VRING_CALL])
def test_an_event_that_is_a_file_ends_the_backend(machine: Machine, request_number: int) -> None:
    machine.front_end.send(request_number, vhost_user.U64.pack(0), [machine.guest.memory.file])
    assert machine.backend.process.wait(PATIENCE) == FormatError.exit_code
    assert "eventfd" in machine.complaints()[-1]


@pytest.mark.parametrize(("offset", "size"), [(0, 16), (8, 1), (1 << 31, 8)])
def test_a_config_that_is_not_there_is_refused(machine: Machine, offset: int, size: int) -> None:
    request = vhost_user.CONFIG.pack(offset, size, 0) + bytes(size)
    assert machine.front_end.ask(Request.GET_CONFIG, request) == b""


def test_descriptors_that_nobody_asked_for_are_closed(machine: Machine) -> None:
    held = machine.proc / "fd"
    before = len(list(held.iterdir()))
    for _ in range(50):
        machine.front_end.send(Request.SET_OWNER, descriptors=[0, 1, 2])
        machine.front_end.receive()
    assert len(list(held.iterdir())) == before


# A guest that breaks the rules.


def test_a_broken_ring_ends_the_backend_with_a_reason(machine: Machine) -> None:
    machine.guest.transmit.descriptor(0, 1 << 62, 44)
    machine.guest.transmit.make_available(0)
    machine.guest.kick(1)
    assert machine.backend.process.wait(PATIENCE) == FormatError.exit_code
    assert "0x4000000000000000" in machine.complaints()[-1]
    assert not machine.backend.socket_path.exists()


def test_a_packet_that_claims_more_than_it_has_ends_the_backend(machine: Machine) -> None:
    program, peer = machine.connect()
    machine.guest.send(Operation.DATA, peer.host_port, peer.guest_port, b"four", length=5)
    assert machine.backend.process.wait(PATIENCE) == FormatError.exit_code
    assert "claims 5 bytes" in machine.complaints()[-1]
    assert ended(program)


def test_a_packet_without_a_whole_header_ends_the_backend(machine: Machine) -> None:
    address = machine.guest.memory.allocate(HEADER_SIZE)
    machine.guest.transmit.offer([(address, HEADER_SIZE - 1, False)])
    machine.guest.kick(1)
    assert machine.backend.process.wait(PATIENCE) == FormatError.exit_code
    assert "43 bytes" in machine.complaints()[-1]


# How the process ends otherwise.


def test_a_killed_backend_is_noticed_and_its_socket_removed(run_directory: Path) -> None:
    with start_vsock_backend(run_directory) as backend:
        assert backend.poll() is None
        backend.process.kill()
        assert backend.process.wait(PATIENCE) < 0
        assert backend.poll() is not None
    assert not (run_directory / "v.sock").exists()


def test_a_terminated_backend_removes_its_socket(machine: Machine) -> None:
    machine.backend.process.terminate()
    assert machine.backend.process.wait(PATIENCE) == 0
    assert not machine.backend.socket_path.exists()


STARTER = """
import socket, sys
from pathlib import Path
from bouvet.vm.vsock import start_vsock_backend

with start_vsock_backend(Path(sys.argv[1])) as backend, socket.socket(fileno=int(sys.argv[2])) as test:
    socket.send_fds(test, [b"%d" % backend.process.pid], [backend.qemu_descriptor])
    test.recv(1)
"""


def test_the_backend_ends_with_the_program_that_started_it(
    run_directory: Path, wait_for_exit: Callable[[int, float], bool]
) -> None:
    """Even if that one is killed, and another process holds QEMU's end."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(run_directory), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    guest = Guest()
    try:
        theirs.close()
        text, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
        front_end = FrontEnd(descriptors[0], guest)
        os.close(descriptors[0])
        # An answer shows that it is past the look for its parent.
        front_end.initialize()
        starter.kill()
        starter.wait()
        assert wait_for_exit(int(text), PATIENCE)
        assert not (run_directory / "v.sock").exists()
        front_end.close()
    finally:
        starter.kill()
        starter.wait()
        ours.close()
        guest.memory.close()


# The run directory.


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120)
    path.mkdir(mode=0o700)
    with start_vsock_backend(path) as backend:
        assert backend.socket_path.is_socket()
        assert backend.socket_path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(MachineError, match="not private"), start_vsock_backend(tmp_path):
        pass


def test_a_link_in_place_of_the_directory_is_refused(run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run_directory)
    with pytest.raises(MachineError, match="cannot be opened"), start_vsock_backend(tmp_path / "link"):
        pass


def test_a_second_backend_in_a_directory_is_refused(machine: Machine) -> None:
    with pytest.raises(MachineError, match=r"v\.sock"), start_vsock_backend(machine.run_directory):
        pass
    machine.connect()


@pytest.mark.parametrize("cid", [0, 2, 0xFFFFFFFF])
def test_a_context_identifier_that_is_reserved_is_refused(run_directory: Path, cid: int) -> None:
    with pytest.raises(MachineError, match="CID"), start_vsock_backend(run_directory, cid):
        pass


# What the process may do.


def test_the_backend_has_no_privileges(machine: Machine) -> None:
    status = dict(line.split(":\t", 1) for line in (machine.proc / "status").read_text().splitlines())
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    # What the host forbids is told, and nothing else is missing.
    log = "".join(machine.backend.log_lines())
    assert not log or log.startswith(UNCONFINED)
    if "root" not in log:
        assert (machine.proc / "root").readlink() == machine.run_directory
    if "namespaces" not in log:
        assert (machine.proc / "ns" / "net").readlink() != Path("/proc/self/ns/net").readlink()
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0
    assert not any(word in log for word in ("filter", "capabilities", "limits", "privileges", "parent"))
