"""vsock packets, credit, and the device without sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.formats.virtio.virtqueue import Virtqueue
from bouvet.formats.virtio.vsock import (
    BUFFER_SIZE,
    CREDIT_UPDATE_THRESHOLD,
    HEADER,
    HEADER_SIZE,
    Connection,
    Header,
    Operation,
    State,
    pack_reset,
    split_pieces,
)
from bouvet.formats.virtio.vsock_device import VsockDevice
from tests.formats.virtio.driver import GUEST_CID, DriverQueue, Guest
from tests.formats.virtio.endpoints import MemoryEndpoint, MemoryHost

WRAP = 1 << 32


def connection() -> Connection:
    return Connection(MemoryEndpoint(), 1 << 30, 52, State.ESTABLISHED, guest_opened=False)


def header(*, buffer_size: int, forwarded: int) -> Header:
    return Header(GUEST_CID, 2, 52, 1 << 30, 0, 1, Operation.CREDIT_UPDATE, 0, buffer_size, forwarded % WRAP)


def test_the_layout_of_a_header() -> None:
    """An answer to a connection, written out by hand from `struct virtio_vsock_hdr`."""
    raw = bytes.fromhex(
        "0300000000000000 0200000000000000 34000000 00000040 00000000 0100 0200 00000000 00000400 00000000"
    )
    parsed = Header(*HEADER.unpack(raw))
    assert len(raw) == HEADER_SIZE
    assert parsed == Header(3, 2, 52, 1 << 30, 0, 1, Operation.RESPONSE, 0, 1 << 18, 0)


def test_a_reset_goes_back_where_the_packet_came_from() -> None:
    answer = Header(*HEADER.unpack(pack_reset(Header(3, 2, 10, 20, 5, 7, 5, 0, 1, 1))))
    assert answer == Header(2, 3, 20, 10, 0, 7, Operation.RESET, 0, 0, 0)


@given(st.lists(st.integers(1, BUFFER_SIZE), max_size=40), st.integers(0, WRAP - 1))
def test_credit_is_what_the_guest_has_room_for(lengths: list[int], begin: int) -> None:
    """From any point of the counters on, also across their wrap-around."""
    subject = connection()
    subject.count_sent(begin)
    subject.take_credit(header(buffer_size=BUFFER_SIZE, forwarded=begin))
    sent = forwarded = begin
    for wanted in lengths:
        assert subject.credit() == BUFFER_SIZE - (sent - forwarded)
        length = min(wanted, subject.credit())
        subject.count_sent(length)
        sent += length
        if length % 2:
            forwarded += (sent - forwarded) // 2
            subject.take_credit(header(buffer_size=BUFFER_SIZE, forwarded=forwarded))


def test_a_buffer_that_shrinks_leaves_no_credit() -> None:
    subject = connection()
    subject.take_credit(header(buffer_size=1000, forwarded=0))
    subject.count_sent(800)
    subject.take_credit(header(buffer_size=500, forwarded=0))
    assert subject.credit() == 0


def test_the_guest_is_asked_for_credit_once_each_time_it_runs_out() -> None:
    subject = connection()
    assert subject.must_ask_credit()
    subject.take_credit(header(buffer_size=0, forwarded=0))
    assert not subject.must_ask_credit()
    subject.take_credit(header(buffer_size=1, forwarded=0))
    assert subject.must_ask_credit()


def test_the_guest_is_told_of_our_credit_across_the_wrap_around() -> None:
    subject = connection()
    subject.count_forwarded(WRAP - 10)
    subject.pack_header(GUEST_CID, Operation.CREDIT_UPDATE)
    assert not subject.count_forwarded(CREDIT_UPDATE_THRESHOLD - 1)
    assert subject.count_forwarded(1)
    packed = Header(*HEADER.unpack(subject.pack_header(GUEST_CID, Operation.CREDIT_UPDATE)))
    assert packed.forwarded == CREDIT_UPDATE_THRESHOLD - 10
    assert packed.buffer_size == BUFFER_SIZE


@given(st.lists(st.binary(max_size=9), max_size=6), st.integers(0, 40))
def test_scattered_bytes_are_split_anywhere(parts: list[bytes], length: int) -> None:
    whole = b"".join(parts)
    front, rest = split_pieces([memoryview(part) for part in parts], length)
    assert b"".join(front) == whole[:length]
    assert b"".join(rest) == whole[length:]


class Setup:
    """A device and its guest in one process."""

    def __init__(self, **options: int) -> None:
        self.guest = Guest(**options)  # type: ignore[arg-type]
        self.host = MemoryHost()
        self.device = VsockDevice(GUEST_CID, self.host)
        self.device.start(self._queue(self.guest.receive), self._queue(self.guest.transmit))
        self.guest.fill()

    def _queue(self, driver: DriverQueue) -> Virtqueue:
        return Virtqueue(
            self.guest.memory.mapped(),
            driver.size,
            driver.addresses(),
            base=driver.start,
            indirect=True,
            interrupt=lambda: None,
        )

    def run(self) -> list[Header]:
        """Let the device work until it is idle; return the headers that the guest has got."""
        self.device.process()
        while self.device.busy:
            self.device.process()
        self.guest.collect()
        headers = [header for header, _ in self.guest.inbox]
        self.guest.inbox.clear()
        return headers


def test_a_header_may_be_scattered_over_descriptors() -> None:
    setup = Setup()
    raw = HEADER.pack(GUEST_CID, 2, 9, 7000, 0, 1, Operation.REQUEST, 0, 1 << 18, 0)
    address = setup.guest.memory.allocate(HEADER_SIZE)
    setup.guest.memory.write(address, raw)
    setup.guest.transmit.offer([(address, 1, False), (address + 1, 20, False), (address + 21, 23, False)])
    assert [header.operation for header in setup.run()] == [Operation.RESPONSE]


def test_receive_buffers_may_be_one_piece_or_many() -> None:
    setup = Setup()
    memory = setup.guest.memory
    setup.guest.receive = DriverQueue(memory, 8)
    setup.device.stop()
    setup.device.start(setup._queue(setup.guest.receive), setup._queue(setup.guest.transmit))
    address = memory.allocate(200)
    setup.guest.receive.offer([(address, HEADER_SIZE + 4, True)])
    scattered = [(10, 30), (40, 20), (60, 1), (61, 7)]
    base = memory.allocate(200)
    setup.guest.receive.offer([(base + start, length, True) for start, length in scattered])
    for port in (1, 2):
        setup.guest.send(Operation.DATA, port, port)
    setup.device.process()
    assert [length for _, length in setup.guest.receive.take_used()] == [HEADER_SIZE, HEADER_SIZE]
    assert Header(*HEADER.unpack(memory.read(address, HEADER_SIZE))).source_port == 1
    assert Header(*HEADER.unpack(memory.read(base + 10, HEADER_SIZE))).source_port == 2


@pytest.mark.parametrize("broken", [False, True])
def test_a_program_that_breaks_while_the_guest_sends(broken: bool) -> None:
    """What it cannot take any more is thrown away, and the guest is not held up by it."""
    setup = Setup()
    setup.guest.send(Operation.REQUEST, 7000, 9)
    setup.run()
    (endpoint,) = setup.host.endpoints
    endpoint.room = 100
    setup.guest.send(Operation.DATA, 7000, 9, bytes(1 << 16))
    setup.run()
    assert endpoint.watched
    assert endpoint.connection is not None
    endpoint.broken = broken
    endpoint.room = 1 << 30
    setup.device.on_writable(endpoint.connection)
    assert not endpoint.watched
    assert len(endpoint.from_guest) == (100 if broken else 1 << 16)
    (update,) = setup.run()
    assert (update.operation, update.forwarded) == (Operation.CREDIT_UPDATE, 1 << 16)
