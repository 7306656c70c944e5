"""Connections through the vsock backend: how they begin, carry bytes and end."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from bouvet.formats.virtio.vsock import BUFFER_SIZE, SHUTDOWN_BOTH, SHUTDOWN_SEND, Operation
from bouvet.formats.virtio.vsock_device import CAPACITY
from tests.formats.virtio.driver import Guest, Peer
from tests.unit.vm.vsock_machine import PORT, Machine, ended, new_machine, pattern, read, read_line

# Connections that host programs make.


def test_a_host_program_is_connected_and_bytes_flow_both_ways(machine: Machine) -> None:
    program, peer = machine.connect()
    assert peer.guest_port == PORT
    assert 1 << 30 <= peer.host_port < 1 << 31
    program.sendall(b"to the guest")
    assert machine.front_end.read(peer, 12) == b"to the guest"
    machine.guest.reply(peer, Operation.DATA, b"to the host")
    assert read(program, 11) == b"to the host"


def test_a_refused_program_is_closed_without_an_answer(machine: Machine) -> None:
    program = machine.dial()
    header, _ = machine.front_end.expect(Operation.REQUEST)
    machine.guest.send(Operation.RESET, header.source_port, header.destination_port)
    assert ended(program)


@pytest.mark.parametrize(
    "line",
    [b"HELLO 52\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT -1\n", b"CONNECT 4294967295\n", b"C" * 40, b"\n"],
)
def test_a_program_that_does_not_follow_the_protocol_is_closed(machine: Machine, line: bytes) -> None:
    assert ended(machine.dial(line))


def test_the_first_line_may_come_in_pieces_and_with_data_behind_it(machine: Machine) -> None:
    program = machine.dial(b"CONN")
    # That another one is served shows that the piece has been seen.
    machine.connect()
    program.sendall(b"ECT 52\ndata")
    peer = machine.front_end.accept()
    assert read_line(program) == b"OK %d\n" % peer.host_port
    assert machine.front_end.read(peer, 4) == b"data"


def test_a_program_that_leaves_before_the_answer_is_forgotten(machine: Machine) -> None:
    program = machine.dial()
    header, _ = machine.front_end.expect(Operation.REQUEST)
    program.close()
    reset, _ = machine.front_end.expect(Operation.RESET)
    assert (reset.source_port, reset.destination_port) == (header.source_port, header.destination_port)


def test_hundreds_of_connections(machine: Machine) -> None:
    pairs = [machine.connect() for _ in range(400)]
    for number, (program, _) in enumerate(pairs):
        program.sendall(b"%04d" % number)
    by_port = {peer.host_port: number for number, (_, peer) in enumerate(pairs)}
    for _ in pairs:
        header, payload = machine.front_end.expect(Operation.DATA)
        number = by_port.pop(header.source_port)
        assert payload == b"%04d" % number
        machine.guest.reply(pairs[number][1], Operation.DATA, payload)
    for number, (program, _) in enumerate(pairs):
        assert read(program, 4) == b"%04d" % number


def test_places_are_freed_for_programs_that_wait(machine: Machine) -> None:
    pairs = [machine.connect() for _ in range(CAPACITY)]
    waiting = machine.dial()
    program, peer = pairs[0]
    machine.guest.reply(peer, Operation.RESET)
    assert ended(program)
    late = machine.front_end.accept()
    assert read_line(waiting) == b"OK %d\n" % late.host_port


def test_a_connection_that_the_guest_never_confirms_closed_gives_up_its_place(machine: Machine) -> None:
    pairs = [machine.connect() for _ in range(CAPACITY)]
    program, peer = pairs[7]
    program.close()
    machine.front_end.expect(Operation.SHUTDOWN)
    waiting = machine.dial()
    header, _ = machine.front_end.expect(Operation.RESET)
    assert header.source_port == peer.host_port
    late = machine.front_end.accept()
    assert read_line(waiting) == b"OK %d\n" % late.host_port


# Connections that the guest makes.


def test_the_guest_reaches_a_program_that_listens(machine: Machine) -> None:
    listener = machine.listen(7000)
    peer = Peer(7000, 1025)
    machine.guest.reply(peer, Operation.REQUEST)
    machine.front_end.expect(Operation.RESPONSE)
    program, _ = listener.accept()
    with program:
        program.settimeout(10)
        machine.guest.reply(peer, Operation.DATA, b"question")
        assert read(program, 8) == b"question"
        program.sendall(b"answer")
        assert machine.front_end.read(peer, 6) == b"answer"
    machine.front_end.expect(Operation.SHUTDOWN)


def test_the_guest_is_refused_where_nothing_listens(machine: Machine) -> None:
    machine.guest.send(Operation.REQUEST, 7000, 1025)
    machine.front_end.expect(Operation.RESET)


def test_the_guest_cannot_lock_host_programs_out(machine: Machine) -> None:
    machine.listen(7000, backlog=2 * CAPACITY)
    answers = []
    for port in range(CAPACITY):
        machine.guest.send(Operation.REQUEST, 7000, port)
        answers.append(machine.front_end.next_packet()[0].operation)
    assert answers.count(Operation.RESPONSE) == CAPACITY // 2
    assert answers.count(Operation.RESET) == CAPACITY // 2
    machine.connect()


# How connections end.


def test_all_bytes_of_a_program_arrive_before_its_end(machine: Machine) -> None:
    program, peer = machine.connect()
    program.sendall(pattern(100_000))
    program.close()
    assert machine.front_end.read(peer, 100_000) == pattern(100_000)
    header, _ = machine.front_end.expect(Operation.SHUTDOWN)
    assert header.flags == SHUTDOWN_BOTH


@pytest.mark.parametrize("farewell", [Operation.SHUTDOWN, Operation.RESET])
def test_all_bytes_of_the_guest_arrive_before_its_end(machine: Machine, farewell: Operation) -> None:
    program, peer = machine.connect()
    content = pattern(BUFFER_SIZE)
    for start in range(0, BUFFER_SIZE, 1 << 16):
        machine.guest.reply(peer, Operation.DATA, content[start : start + (1 << 16)])
    machine.guest.reply(peer, farewell, flags=SHUTDOWN_BOTH)
    if farewell is Operation.SHUTDOWN:
        machine.front_end.expect(Operation.RESET)
    assert read(program, BUFFER_SIZE) == content
    assert ended(program)


def test_there_is_no_half_close(machine: Machine) -> None:
    program, peer = machine.connect()
    machine.guest.reply(peer, Operation.SHUTDOWN, flags=SHUTDOWN_SEND)
    machine.guest.reply(peer, Operation.DATA, b"still here")
    assert read(program, 10) == b"still here"
    program.shutdown(socket.SHUT_WR)
    header, _ = machine.front_end.expect(Operation.SHUTDOWN)
    assert header.flags == SHUTDOWN_BOTH


def test_packets_of_no_connection_are_reset(machine: Machine) -> None:
    machine.guest.send(Operation.DATA, 1234, 99, b"lost")
    header, _ = machine.front_end.expect(Operation.RESET)
    assert (header.source_port, header.destination_port) == (1234, 99)
    machine.guest.send(Operation.REQUEST, 1234, 99, kind=2)
    header, _ = machine.front_end.expect(Operation.RESET)
    assert header.kind == 2


def test_packets_of_strangers_are_dropped(machine: Machine) -> None:
    machine.guest.send(Operation.REQUEST, 1, 1, source_cid=4)
    machine.guest.send(Operation.REQUEST, 2, 2, destination_cid=5)
    machine.guest.send(Operation.REQUEST, 3, 3)
    header, _ = machine.front_end.expect(Operation.RESET)
    assert header.source_port == 3


@pytest.mark.parametrize("operation", [0, Operation.REQUEST, Operation.RESPONSE, 8, 0xFFFF])
def test_an_operation_out_of_place_resets_the_connection(machine: Machine, operation: int) -> None:
    program, peer = machine.connect()
    machine.guest.send(operation, peer.host_port, peer.guest_port)
    machine.front_end.expect(Operation.RESET)
    assert ended(program)


# Credit and back-pressure.


def test_a_guest_that_does_not_read_stops_its_program(machine: Machine) -> None:
    program, peer = machine.connect(buffer_size=10_000)
    content = pattern(4 << 20)
    sender = threading.Thread(target=program.sendall, args=(content,))
    sender.start()
    got = b""
    while len(got) < 10_000:
        got += machine.front_end.expect(Operation.DATA)[1]
    assert len(got) == 10_000
    machine.front_end.expect(Operation.CREDIT_REQUEST)
    # Nothing more comes, and no further question, however often the guest says that it is full.
    for _ in range(3):
        machine.guest.reply(peer, Operation.CREDIT_REQUEST)
    machine.guest.send(Operation.DATA, 1, 1)
    machine.front_end.expect(Operation.RESET)
    peer.forwarded = 10_000
    peer.buffer_size = BUFFER_SIZE
    machine.guest.reply(peer, Operation.CREDIT_UPDATE)
    assert got + machine.front_end.read(peer, len(content) - 10_000) == content
    sender.join()


def test_a_guest_that_acknowledges_too_much_has_no_credit(machine: Machine) -> None:
    program, peer = machine.connect()
    peer.forwarded = 5
    machine.guest.reply(peer, Operation.CREDIT_UPDATE)
    # The answer shows that it was taken.
    machine.guest.send(Operation.DATA, 1, 1)
    machine.front_end.expect(Operation.RESET)
    program.sendall(b"held back")
    machine.front_end.expect(Operation.CREDIT_REQUEST)
    peer.forwarded = 0
    machine.guest.reply(peer, Operation.CREDIT_UPDATE)
    assert machine.front_end.read(peer, 9) == b"held back"


def test_a_program_that_does_not_read_stops_its_guest_alone(machine: Machine) -> None:
    stopped, first = machine.connect()
    lively, second = machine.connect()
    chunk = pattern(1 << 16)
    sent = forwarded = 0
    # As far as the credit goes: what the program's socket takes, and then the backend's buffer.
    while sent + len(chunk) - forwarded <= BUFFER_SIZE:
        machine.guest.reply(first, Operation.DATA, chunk)
        sent += len(chunk)
        machine.guest.reply(second, Operation.DATA, b"ping")
        assert read(lively, 4) == b"ping"
        forwarded = max(forwarded, _forwarded(machine, first))
    assert sent - forwarded > BUFFER_SIZE - 2 * len(chunk)
    assert machine.resident() < 64 << 20
    assert read(stopped, sent) == chunk * (sent // len(chunk))
    while forwarded < sent:
        machine.guest.reply(first, Operation.CREDIT_REQUEST)
        machine.front_end.wait()
        forwarded = max(forwarded, _forwarded(machine, first))


def _forwarded(machine: Machine, peer: Peer) -> int:
    """Return what the guest has been told of how many bytes have left the backend's buffer."""
    machine.guest.collect()
    packets, machine.guest.inbox = machine.guest.inbox, []
    return max([header.forwarded for header, _ in packets if header.source_port == peer.host_port], default=0)


def test_a_guest_that_overruns_its_credit_is_reset(machine: Machine) -> None:
    _, peer = machine.connect()
    # Twice what the program's socket and the backend's buffer hold together.
    for _ in range(16):
        machine.guest.reply(peer, Operation.DATA, bytes(1 << 16))
    machine.front_end.expect(Operation.RESET)
    assert machine.resident() < 64 << 20


def test_a_guest_without_receive_buffers_does_not_spin_the_backend(machine: Machine) -> None:
    program, _ = machine.connect()
    program.sendall(bytes(1 << 17))
    got = 0
    # It had 32 buffers of 4096 bytes; the request took one of them, which was offered again.
    while got < 32 * 4096:
        machine.front_end.wait()
        machine.guest.collect(refill=False)
        got = sum(len(payload) for _, payload in machine.guest.inbox)
    program.sendall(bytes(1 << 17))
    before = machine.processor_seconds()
    assert not machine.front_end.wait(1.0)
    assert machine.processor_seconds() - before < 0.2


@pytest.mark.parametrize("indirect", [False, True])
def test_ring_indexes_wrap_around(run_directory: Path, indirect: bool) -> None:
    guest = Guest(queue_size=8, start=0xFFF0, room=64, indirect=indirect)
    with new_machine(run_directory, guest) as machine:
        program, peer = machine.connect()
        content = pattern(10_000)
        program.sendall(content)
        assert machine.front_end.read(peer, len(content)) == content
        machine.guest.reply(peer, Operation.DATA, content)
        assert read(program, len(content)) == content
