"""The other sides of a vsock device: a guest's driver over hand-made rings, and QEMU's vhost-user end."""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bouvet.formats.virtio import vhost_user
from bouvet.formats.virtio.memory import GuestMemory, Region
from bouvet.formats.virtio.vhost_user import Request
from bouvet.formats.virtio.virtqueue import DESCRIPTOR, INDIRECT, NEXT, WRITE, RingAddresses
from bouvet.formats.virtio.vsock import HEADER, HEADER_SIZE, HOST_CID, STREAM, Header, Operation

PAGE = 4096
GUEST_BASE = 0x100000
USER_BASE = 0x7F0000000000
GUEST_CID = 3
FEATURES = (
    vhost_user.FEATURE_VERSION_1
    | vhost_user.FEATURE_INDIRECT_DESCRIPTORS
    | vhost_user.FEATURE_PROTOCOL_FEATURES
)
PATIENCE = 10.0
"""Seconds after which something that should have come is missed."""

Piece = tuple[int, int, bool]
"""A descriptor's guest address, length and whether the device may write."""


class Memory:
    """A guest's memory in a file of its own, between two pages that nobody may touch."""

    CANARY = b"\xa5" * PAGE

    def __init__(self, size: int = 8 << 20) -> None:
        self.size = size
        self.file = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.file, size + 2 * PAGE)
        self.mapping = mmap.mmap(self.file, size + 2 * PAGE)
        self.mapping[:PAGE] = self.mapping[PAGE + size :] = self.CANARY
        self.view = memoryview(self.mapping)[PAGE : PAGE + size]
        self._next = 0

    def allocate(self, length: int, alignment: int = 16) -> int:
        """Return the guest address of fresh bytes."""
        self._next = -(-self._next // alignment) * alignment
        address = GUEST_BASE + self._next
        self._next += length
        assert self._next <= self.size
        return address

    def write(self, address: int, content: bytes) -> None:
        self.view[address - GUEST_BASE : address - GUEST_BASE + len(content)] = content

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.view[address - GUEST_BASE : address - GUEST_BASE + length])

    def words(self, address: int, count: int) -> memoryview:
        start = address - GUEST_BASE
        return self.view[start : start + 2 * count].cast("H")

    def mapped(self) -> GuestMemory:
        """Return it as a device in the same process sees it."""
        return GuestMemory([Region(GUEST_BASE, USER_BASE, self.view)])

    def check_canaries(self) -> None:
        assert self.mapping[:PAGE] == self.CANARY
        assert self.mapping[PAGE + self.size :] == self.CANARY

    def close(self) -> None:
        os.close(self.file)


class DriverQueue:
    """The driver's side of one split virtqueue."""

    def __init__(self, memory: Memory, size: int = 64, *, start: int = 0) -> None:
        self.memory = memory
        self.size = size
        self.descriptors = memory.allocate(16 * size, PAGE)
        self.available = memory.allocate(6 + 2 * size, PAGE)
        self.used = memory.allocate(6 + 8 * size, PAGE)
        self.available_words = memory.words(self.available, 3 + size)
        self.used_words = memory.words(self.used, 2)
        self.start = start
        self.available_words[1] = self.used_words[1] = start
        self._seen = start
        self._free = list(range(size))
        self.careless = False
        """Whether this driver has scribbled over its rings, and so may get back what it never gave."""
        self._chains: dict[int, list[int]] = {}

    def addresses(self) -> RingAddresses:
        shift = USER_BASE - GUEST_BASE
        return RingAddresses(self.descriptors + shift, self.available + shift, self.used + shift)

    def descriptor(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        self.memory.write(self.descriptors + 16 * index, DESCRIPTOR.pack(address, length, flags, following))

    def make_available(self, head: int) -> None:
        index: int = self.available_words[1]
        self.available_words[2 + index % self.size] = head
        self.available_words[1] = (index + 1) & 0xFFFF

    @property
    def room(self) -> int:
        return len(self._free)

    @property
    def in_flight(self) -> int:
        return len(self._chains)

    def offer(self, pieces: Sequence[Piece], *, table: int | None = None) -> int:
        """Make a chain available; through an indirect table if an address for it is given."""
        if table is not None:
            count = len(pieces)
            for place, (address, length, writable) in enumerate(pieces):
                flags = (WRITE if writable else 0) | (NEXT if place + 1 < count else 0)
                self.memory.write(table + 16 * place, DESCRIPTOR.pack(address, length, flags, place + 1))
            indexes = [self._free.pop()]
            self.descriptor(indexes[0], table, 16 * count, INDIRECT)
        else:
            indexes = [self._free.pop() for _ in pieces]
            for place, (address, length, writable) in enumerate(pieces):
                last = place + 1 == len(pieces)
                flags = (WRITE if writable else 0) | (0 if last else NEXT)
                self.descriptor(indexes[place], address, length, flags, 0 if last else indexes[place + 1])
        self._chains[indexes[0]] = indexes
        self.make_available(indexes[0])
        return indexes[0]

    def take_used(self) -> list[tuple[int, int]]:
        """Return the chains that the device has given back: head and bytes written."""
        out = []
        while self._seen != self.used_words[1]:
            entry = self.memory.read(self.used + 4 + 8 * (self._seen % self.size), 8)
            head, length = struct.unpack("<II", entry)
            self._free += self._chains.pop(head, []) if self.careless else self._chains.pop(head)
            self._seen = (self._seen + 1) & 0xFFFF
            out.append((head, length))
        return out


@dataclass
class Peer:
    """The guest's end of a connection, with its side of the credit."""

    host_port: int
    guest_port: int
    buffer_size: int = 1 << 18
    forwarded: int = 0
    received: bytearray = field(default_factory=bytearray)


class Guest:
    """A well-behaved vsock driver, as far as it is not told otherwise."""

    def __init__(
        self,
        *,
        queue_size: int = 64,
        start: int = 0,
        room: int = 4096,
        indirect: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.memory = memory or Memory()
        self.receive = DriverQueue(self.memory, queue_size, start=start)
        self.transmit = DriverQueue(self.memory, queue_size, start=start)
        self.room = room
        self.indirect = indirect
        self.kick: Callable[[int], None] = lambda queue: None
        self.wait: Callable[[float], bool] = lambda seconds: False
        self.inbox: list[tuple[Header, bytes]] = []
        self._buffers: dict[int, tuple[int, int | None]] = {}
        self._spare: list[tuple[int, int | None]] = [
            (self.memory.allocate(HEADER_SIZE + room), self.memory.allocate(32) if indirect else None)
            for _ in range(queue_size if indirect else queue_size // 2)
        ]
        self._outgoing = [
            (self.memory.allocate(HEADER_SIZE + (1 << 16)), self.memory.allocate(32) if indirect else None)
            for _ in range(16)
        ]
        self._sent = 0

    def fill(self, count: int | None = None) -> None:
        """Offer receive buffers: all that there are, or `count`."""
        for _ in range(len(self._spare) if count is None else count):
            address, table = self._spare.pop()
            pieces = [(address, HEADER_SIZE, True), (address + HEADER_SIZE, self.room, True)]
            self._buffers[self.receive.offer(pieces, table=table)] = (address, table)
        self.kick(0)

    def collect(self, *, refill: bool = True) -> None:
        """Take the packets that have arrived."""
        for head, length in self.receive.take_used():
            address, table = self._buffers.pop(head)
            packet = self.memory.read(address, length)
            header = Header(*HEADER.unpack(packet[:HEADER_SIZE]))
            assert header.length == length - HEADER_SIZE
            self.inbox.append((header, packet[HEADER_SIZE:]))
            self._spare.append((address, table))
        if refill:
            self.fill()

    def send(
        self,
        operation: int,
        host_port: int,
        guest_port: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        buffer_size: int = 1 << 18,
        forwarded: int = 0,
        kind: int = STREAM,
        source_cid: int = GUEST_CID,
        destination_cid: int = HOST_CID,
        length: int | None = None,
    ) -> None:
        """Send a packet with the given header."""
        self.transmit.take_used()
        while self.transmit.room < 2 or self.transmit.in_flight == len(self._outgoing):
            assert self.wait(PATIENCE), "the device takes no packets"
            self.transmit.take_used()
        address, table = self._outgoing[self._sent % len(self._outgoing)]
        self._sent += 1
        header = HEADER.pack(
            source_cid, destination_cid, guest_port, host_port, len(payload) if length is None else length,
            kind, operation, flags, buffer_size, forwarded,
        )  # fmt: skip
        self.memory.write(address, header + payload)
        pieces = [(address, HEADER_SIZE, False)]
        if payload:
            pieces.append((address + HEADER_SIZE, len(payload), False))
        self.transmit.offer(pieces, table=table)
        self.kick(1)

    def send_carelessly(self, *packet: Any, **fields: Any) -> None:
        """Send a packet as `send` does, whether or not the device still takes any."""
        if self.transmit.room >= 2 and self.transmit.in_flight < len(self._outgoing):
            self.send(*packet, **fields)

    def reply(self, peer: Peer, operation: int, payload: bytes = b"", *, flags: int = 0) -> None:
        """Send a packet of one connection."""
        self.send(
            operation, peer.host_port, peer.guest_port, payload,
            flags=flags, buffer_size=peer.buffer_size, forwarded=peer.forwarded & 0xFFFFFFFF,
        )  # fmt: skip


class FrontEnd:
    """QEMU's end of the vhost-user socket, and the events that go with the guest's queues."""

    def __init__(self, descriptor: int, guest: Guest) -> None:
        self.socket = socket.socket(fileno=os.dup(descriptor))
        self.socket.settimeout(PATIENCE)
        self.kicks = [os.eventfd(0) for _ in range(2)]
        self.calls = [os.eventfd(0) for _ in range(2)]
        self.attach(guest)
        self._poll = select.poll()
        for call in self.calls:
            self._poll.register(call, select.POLLIN)

    def attach(self, guest: Guest) -> None:
        """Have a guest use the queues' events."""
        self.guest = guest
        guest.kick = self._kick
        guest.wait = self.wait

    def _kick(self, queue: int) -> None:
        if not (self.guest.receive, self.guest.transmit)[queue].used_words[0] & 1:
            os.eventfd_write(self.kicks[queue], 1)

    def send(
        self, request: int, payload: bytes = b"", descriptors: Sequence[int] = (), *, flags: int = 9
    ) -> None:
        """Send a message; by default one that asks for an acknowledgement."""
        message = vhost_user.HEADER.pack(request, flags, len(payload)) + payload
        socket.send_fds(self.socket, [message], descriptors)

    def receive(self) -> bytes:
        """Return the next answer's payload."""
        header = self.socket.recv(vhost_user.HEADER.size, socket.MSG_WAITALL)
        if len(header) < vhost_user.HEADER.size:
            raise EOFError("the backend has closed its end")
        _, flags, size = vhost_user.HEADER.unpack(header)
        assert flags & 7 == 5
        return self.socket.recv(size, socket.MSG_WAITALL) if size else b""

    def ask(self, request: int, payload: bytes = b"", descriptors: Sequence[int] = ()) -> bytes:
        """Send a message that has an answer of its own, and return it."""
        self.send(request, payload, descriptors, flags=1)
        return self.receive()

    def tell(self, request: int, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send a message and wait until it is obeyed."""
        self.send(request, payload, descriptors)
        assert vhost_user.U64.unpack(self.receive())[0] == 0

    def initialize(self) -> None:
        """What QEMU does when the machine is made."""
        features = vhost_user.U64.unpack(self.ask(Request.GET_FEATURES))[0]
        assert features & FEATURES == FEATURES
        self.ask(Request.GET_PROTOCOL_FEATURES)
        protocol = vhost_user.PROTOCOL_CONFIG | vhost_user.PROTOCOL_REPLY_ACK
        self.tell(Request.SET_PROTOCOL_FEATURES, vhost_user.U64.pack(protocol))
        self.tell(Request.SET_OWNER)
        config = self.ask(Request.GET_CONFIG, vhost_user.CONFIG.pack(0, 8, 0) + bytes(8))
        assert config[vhost_user.CONFIG.size :] == vhost_user.U64.pack(GUEST_CID)

    def share_memory(self) -> None:
        memory = self.guest.memory
        region = vhost_user.MEMORY_REGION.pack(GUEST_BASE, memory.size, USER_BASE, PAGE)
        self.tell(Request.SET_MEM_TABLE, vhost_user.MEMORY_TABLE.pack(1, 0) + region, [memory.file])

    def start(self, bases: tuple[int, int] | None = None) -> None:
        """What QEMU does when the driver is ready, or the machine goes on."""
        self.tell(Request.SET_FEATURES, vhost_user.U64.pack(FEATURES))
        self.share_memory()
        queues = (self.guest.receive, self.guest.transmit)
        for index, queue in enumerate(queues):
            addresses = queue.addresses()
            base = queue.start if bases is None else bases[index]
            self.tell(Request.SET_VRING_NUM, vhost_user.VRING_STATE.pack(index, queue.size))
            self.tell(Request.SET_VRING_BASE, vhost_user.VRING_STATE.pack(index, base))
            self.tell(
                Request.SET_VRING_ADDR,
                vhost_user.VRING_ADDRESS.pack(
                    index, 0, addresses.descriptors, addresses.used, addresses.available, 0
                ),
            )
            self.tell(Request.SET_VRING_KICK, vhost_user.U64.pack(index), [self.kicks[index]])
            self.tell(Request.SET_VRING_CALL, vhost_user.U64.pack(index), [self.calls[index]])
        for index in range(2):
            self.tell(Request.SET_VRING_ENABLE, vhost_user.VRING_STATE.pack(index, 1))

    def stop(self) -> tuple[int, int]:
        """What QEMU does when the machine pauses; return where the queues are to go on."""
        for index in range(2):
            self.tell(Request.SET_VRING_ENABLE, vhost_user.VRING_STATE.pack(index, 0))
        bases = []
        for index in range(2):
            answer = self.ask(Request.GET_VRING_BASE, vhost_user.VRING_STATE.pack(index, 0))
            bases.append(vhost_user.VRING_STATE.unpack(answer)[1])
        return bases[0], bases[1]

    def answers(self, marker: int) -> bool:
        """Return whether the backend still answers, after all that was sent before; False if it has ended.

        A part of the configuration's answer is copied from the question: it tells this one from others.
        """
        question = vhost_user.CONFIG.pack(0, 8, marker)
        try:
            self.send(Request.GET_CONFIG, question + bytes(8), flags=1)
            while self.receive()[: len(question)] != question:
                continue
        except (ConnectionError, EOFError):
            return False
        return True

    def wait(self, seconds: float = PATIENCE) -> bool:
        """Wait for an interrupt."""
        ready = self._poll.poll(seconds * 1000)
        for descriptor, _ in ready:
            os.eventfd_read(descriptor)
        return bool(ready)

    def expect(self, operation: Operation) -> tuple[Header, bytes]:
        """Return the next packet that the guest receives, which must be of one kind."""
        header, payload = self.next_packet()
        assert header.operation == operation, header
        return header, payload

    def next_packet(self) -> tuple[Header, bytes]:
        """Return the next packet that the guest receives, credit updates left out."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.guest.collect()
            while self.guest.inbox:
                header, payload = self.guest.inbox.pop(0)
                if header.operation != Operation.CREDIT_UPDATE:
                    return header, payload
            assert time.monotonic() < deadline, "no packet has come"
            self.wait(deadline - time.monotonic())

    def accept(self, *, buffer_size: int = 1 << 18) -> Peer:
        """Accept the connection that a host program asks for next."""
        header, _ = self.expect(Operation.REQUEST)
        peer = Peer(header.source_port, header.destination_port, buffer_size)
        self.guest.reply(peer, Operation.RESPONSE)
        return peer

    def read(self, peer: Peer, length: int) -> bytes:
        """Return bytes that arrive on a connection, and tell their credit."""
        while len(peer.received) < length:
            header, payload = self.next_packet()
            assert header.operation in {Operation.DATA, Operation.CREDIT_REQUEST}, header
            assert (header.source_port, header.destination_port) == (peer.host_port, peer.guest_port)
            peer.received += payload
            peer.forwarded += len(payload)
            self.guest.reply(peer, Operation.CREDIT_UPDATE)
        out = bytes(peer.received[:length])
        del peer.received[:length]
        return out

    def close(self) -> None:
        """QEMU ends."""
        for descriptor in (*self.kicks, *self.calls):
            os.close(descriptor)
        self.kicks.clear()
        self.calls.clear()
        self.guest.kick = lambda queue: None
        self.socket.close()
