"""A hostile guest against the device: nothing but a `FormatError` may come of it, and nothing may grow.

`BOUVET_FUZZ_SECONDS` sets how long it goes on (10 by default), `BOUVET_FUZZ_SEED` where it begins: each
round has a seed of its own, counted up from there and named when it fails.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import time
import tracemalloc

import pytest

from bouvet.errors import FormatError
from bouvet.formats.virtio.virtqueue import Virtqueue
from bouvet.formats.virtio.vsock import BUFFER_SIZE, HEADER, HEADER_SIZE, Connection, Operation, State
from bouvet.formats.virtio.vsock_device import MAX_RESETS, VsockDevice
from tests.formats.virtio.driver import GUEST_BASE, GUEST_CID, DriverQueue, Memory, Piece
from tests.formats.virtio.endpoints import MemoryEndpoint, MemoryHost

SECONDS = float(os.environ.get("BOUVET_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("BOUVET_FUZZ_SEED", "0"))

CAPACITY = 12
QUEUE_SIZE = 16
STEPS = 400
MAX_IDLE_ROUNDS = 2000
"""How often the device may say that it is busy while nothing happens any more."""

NASTY = (0, 1, 2, 3, 15, 16, 43, 44, 45, 4096, 0xFFFF, 0x10000, 0x10001, 1 << 31, 0xFFFFFFFF)


class Attack:
    """One guest that mixes what is right with what is wrong, and host programs that come and go."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.memory = Memory(1 << 20)
        self.host = MemoryHost(self.choice)
        self.device = VsockDevice(GUEST_CID, self.host, CAPACITY)
        self.mapped = self.memory.mapped()
        self.receive, self.transmit = (DriverQueue(self.memory, QUEUE_SIZE) for _ in range(2))
        self.receive.careless = self.transmit.careless = True
        self.payload = self.memory.allocate(1 << 16)
        self.buffers = self.memory.allocate(1 << 18)
        # Of both there are more than can be on their way at once.
        self.headers = itertools.cycle([self.memory.allocate(HEADER_SIZE) for _ in range(2 * QUEUE_SIZE)])
        self.tables = itertools.cycle([self.memory.allocate(128) for _ in range(4 * QUEUE_SIZE)])
        self.opened: list[MemoryEndpoint] = []
        # How far this guest goes: from one that obeys the rings to one that writes anywhere.
        self.malice = self.choice.choice([0.0, 0.01, 0.2])
        self.start()

    def start(self) -> None:
        queues = [
            Virtqueue(
                self.mapped, QUEUE_SIZE, queue.addresses(), base=queue.used_words[1],
                indirect=self.malice < 0.1 or self.choice.random() < 0.9, interrupt=lambda: None,
            )
            for queue in (self.receive, self.transmit)
        ]  # fmt: skip
        self.device.start(*queues)

    def run(self) -> None:
        """Play, then let everything rest."""
        actions = [
            self.send, self.send, self.send, self.offer, self.offer, self.dial, self.write, self.write,
            self.end, self.drain, self.scribble, self.pause, self.work, self.work, self.work,
            self.dial, self.burst,
        ]  # fmt: skip
        for _ in range(STEPS):
            self.choice.choice(actions)()
            self.check()
        rounds = 0
        while self.device.busy:
            self.device.process()
            rounds += 1
            assert rounds < MAX_IDLE_ROUNDS, "the device is busy for ever"

    def send(self) -> None:
        """Have the guest send a packet, mostly of a connection that there is."""
        choice = self.choice
        connections = self.connections()
        if connections and choice.random() < 0.8:
            connection = choice.choice(connections)
            ports = (connection.guest_port, connection.host_port)
        else:
            ports = (choice.randrange(4), choice.choice([0, 1, 2, 7000, 1 << 30, (1 << 30) + 1]))
        operation = choice.choice([*Operation, *Operation, Operation.DATA, 0, 8, 0xFFFF])
        room = choice.choice([0, 0, 1, 500, 4096, 1 << 16])
        length = room if choice.random() > self.malice else choice.choice(NASTY)
        header = HEADER.pack(
            GUEST_CID if choice.random() < 0.97 else choice.choice(NASTY),
            2 if choice.random() < 0.97 else choice.choice(NASTY),
            *ports, length, 1 if choice.random() < 0.97 else 2, operation,
            choice.randrange(4), choice.choice([0, 100, BUFFER_SIZE, 0xFFFFFFFF]),
            choice.choice([0, 0, *NASTY]),
        )  # fmt: skip
        self.chain(
            self.transmit, [*self.cut(self.header(header), HEADER_SIZE, False), (self.payload, room, False)]
        )

    def burst(self) -> None:
        """Have the guest send a packet many times: data beyond its credit, or what nobody waits for."""
        connections = self.connections()
        if not connections or self.choice.random() > 0.05:
            return
        connection = self.choice.choice(connections)
        endpoint = connection.endpoint
        assert isinstance(endpoint, MemoryEndpoint)
        endpoint.room = 0
        host_port, length = (connection.host_port, 1 << 16) if self.choice.random() < 0.5 else (3, 0)
        header = HEADER.pack(
            GUEST_CID, 2, connection.guest_port, host_port, length, 1, Operation.DATA, 0, 1000, 0
        )
        for _ in range(300):
            self.chain(
                self.transmit, [(self.header(header), HEADER_SIZE, False), (self.payload, length, False)]
            )
            self.device.process()
            self.check()

    def header(self, content: bytes) -> int:
        """Return the address of a header with the given content."""
        address = next(self.headers)
        self.memory.write(address, content)
        return address

    def offer(self) -> None:
        """Have the guest offer a receive buffer."""
        length = self.choice.choice([45, 100, 4140, 70_000])
        self.chain(self.receive, self.cut(self.buffers + self.choice.randrange(1 << 17), length, True))

    def cut(self, address: int, length: int, writable: bool) -> list[Piece]:
        """Return a buffer in pieces, some of them empty."""
        cuts = sorted(self.choice.randrange(length + 1) for _ in range(self.choice.choice([0, 1, 1, 1, 3])))
        edges = itertools.pairwise([0, *cuts, length])
        return [(address + begin, end - begin, writable) for begin, end in edges]

    def chain(self, queue: DriverQueue, pieces: list[Piece]) -> None:
        """Offer a chain, or a bad one."""
        choice = self.choice
        queue.take_used()
        if choice.random() < self.malice / 4:
            place = choice.randrange(len(pieces))
            address, length, writable = pieces[place]
            pieces[place] = choice.choice(
                [
                    (choice.choice(NASTY), 16, writable),
                    (GUEST_BASE + self.memory.size - 8, 9, writable),
                    (address, 0xFFFFFFFF, writable),
                    (address, length, not writable),
                ]
            )
        if queue.room < len(pieces):
            return
        queue.offer(pieces, table=next(self.tables) if choice.random() < 0.4 else None)

    def scribble(self) -> None:
        """Have a guest that is malicious enough write into its rings."""
        if self.choice.random() > self.malice:
            return
        queue = self.choice.choice([self.receive, self.transmit])
        kind = self.choice.randrange(4)
        if kind == 0:
            queue.available_words[1] = self.choice.choice([0, 0xFFFF, queue.available_words[1] + 1 & 0xFFFF])
        elif kind == 1:
            queue.available_words[2 + self.choice.randrange(QUEUE_SIZE)] = self.choice.choice(
                [0, 15, 16, 0xFFFF]
            )
        else:
            base = self.choice.choice([queue.descriptors, queue.available, queue.used, self.payload])
            self.memory.write(base + self.choice.randrange(200), self.choice.randbytes(8))

    def dial(self) -> None:
        if self.device.places > 0:
            endpoint = MemoryEndpoint(self.choice)
            self.opened.append(endpoint)
            self.device.open(endpoint, self.choice.randrange(4))

    def write(self) -> None:
        """Have a host program write."""
        endpoint = self.program()
        if endpoint is not None and endpoint.connection is not None:
            endpoint.to_guest += bytes(self.choice.choice([1, 50, 5000, 100_000]))
            self.device.on_readable(endpoint.connection)

    def end(self) -> None:
        """Have a host program end, in one of the ways there are."""
        endpoint = self.program()
        if endpoint is not None and self.choice.random() < 0.1:
            # The device will find out.
            endpoint.broken = True
        elif endpoint is not None and endpoint.connection is not None and self.choice.random() < 0.5:
            endpoint.ended = True
            endpoint.broken = self.choice.random() < 0.5
            self.device.on_writable(endpoint.connection)
            self.device.on_readable(endpoint.connection, ended=True, gone=endpoint.broken)

    def drain(self) -> None:
        """Have a host program read, or stop reading."""
        endpoint = self.program()
        if endpoint is not None and endpoint.connection is not None:
            endpoint.room = self.choice.choice([0, 10, 10_000, 1 << 30])
            self.device.on_writable(endpoint.connection)

    def pause(self) -> None:
        """Have the machine pause, or the guest start anew."""
        if self.choice.random() < 0.2:
            self.device.stop()
            if self.choice.random() < 0.3:
                self.device.drop_connections()
                for queue in (self.receive, self.transmit):
                    queue.available_words[1] = queue.used_words[1]
            self.start()

    def work(self) -> None:
        self.device.process()

    def program(self) -> MemoryEndpoint | None:
        alive = [endpoint for endpoint in (*self.opened, *self.host.endpoints) if not endpoint.closed]
        return self.choice.choice(alive) if alive else None

    def connections(self) -> list[Connection]:
        return list(self.device._table)

    def check(self) -> None:
        """Nothing is beyond its bounds."""
        device = self.device
        assert len(device._table) <= CAPACITY
        assert len(device._resets) <= MAX_RESETS + CAPACITY
        assert len(device._ready) <= CAPACITY
        assert device._buffers is None or len(device._buffers) <= QUEUE_SIZE
        places = {*device._table, *device._table._draining}
        assert sum(connection.guest_opened for connection in places) == device._table._guest_opened
        assert device._table._guest_opened <= CAPACITY // 2
        for connection in places:
            assert len(connection.pending) <= BUFFER_SIZE
        for endpoint in (*self.opened, *self.host.endpoints):
            connection = endpoint.connection
            assert connection is not None
            known = connection in places and connection.state is not State.CLOSING
            assert endpoint.closed != known, "an end is closed exactly when nobody needs it"


def test_a_hostile_guest_breaks_nothing() -> None:
    deadline = time.monotonic() + SECONDS
    seed, survived, refused = SEED, 0, 0
    while time.monotonic() < deadline:
        attack = Attack(seed)
        try:
            attack.run()
            survived += 1
        except FormatError:
            refused += 1
            attack.check()
        except BaseException as error:
            error.add_note(f"with BOUVET_FUZZ_SEED={seed}")
            raise
        finally:
            attack.memory.check_canaries()
            attack.memory.close()
        seed += 1
    # Both kinds of guest must have been there, or this has tested nothing.
    assert survived
    assert refused


def test_the_check_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its bound on what a connection may hold, the device grows, and this is seen."""
    monkeypatch.setattr("bouvet.formats.virtio.vsock_device.BUFFER_SIZE", 1 << 40)
    attack = Attack(0)
    attack.malice = 0.0
    endpoint = MemoryEndpoint()
    endpoint.room = 0
    attack.opened.append(endpoint)
    attack.device.open(endpoint, 1).state = State.ESTABLISHED
    header = HEADER.pack(GUEST_CID, 2, 1, 1 << 30, 0x10000, 1, Operation.DATA, 0, BUFFER_SIZE, 0)
    for _ in range(BUFFER_SIZE // 0x10000 + 1):
        attack.chain(
            attack.transmit, [(attack.header(header), HEADER_SIZE, False), (attack.payload, 0x10000, False)]
        )
        attack.device.process()
    with pytest.raises(AssertionError):
        attack.check()
    attack.memory.close()


def test_refused_packets_leave_no_memory_behind() -> None:
    """A guest that takes no answers, and opens and resets connections for ever."""
    attack = Attack(1)
    connected = 0

    def flood(count: int) -> None:
        nonlocal connected
        for number in range(count):
            for operation in (Operation.REQUEST, Operation.RESET):
                header = HEADER.pack(GUEST_CID, 2, number, 7000, 0, 1, operation, 0, 1000, 0)
                attack.chain(attack.transmit, [(attack.header(header), HEADER_SIZE, False)])
                attack.device.process()
            connected += len(attack.host.endpoints)
            attack.host.endpoints.clear()
        # These ends and their connections know each other.
        gc.collect()

    flood(1000)
    tracemalloc.start()
    flood(1000)
    before = tracemalloc.get_traced_memory()[0]
    flood(3000)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert connected == 5000
    assert growth < 20_000
    attack.memory.close()
