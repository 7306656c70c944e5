"""The vsock device: moves packets between two virtqueues and the host's ends of connections.

It knows nothing of sockets or of epoll: a `Host` opens connections for the guest, an `Endpoint` is the
host's end of one, and whoever drives the device calls `process` when anything has happened.

Back-pressure, towards the guest: what a host program does not take stays in its connection's buffer,
which the guest's credit bounds. Towards the host: bytes are read from a host program only into buffers
that the guest has offered, as far as its credit goes; all others stay in the program's socket. Answers
to packets of no connection are queued up to a bound, beyond which no packets are taken.

A guest that breaks the rules of the rings or of a packet's layout ends the device (`FormatError`); one
that breaks those of a connection has that connection reset.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

from bouvet.errors import FormatError
from bouvet.formats.virtio.virtqueue import MAX_CHAIN, Chain, Virtqueue
from bouvet.formats.virtio.vsock import (
    BUFFER_SIZE,
    HEADER,
    HEADER_SIZE,
    HOST_CID,
    MAX_PAYLOAD,
    SHUTDOWN_BOTH,
    STREAM,
    Connection,
    Endpoint,
    Header,
    Operation,
    State,
    pack_reset,
    split_pieces,
)
from bouvet.formats.virtio.vsock_buffers import PacketBuffer, PacketBuffers
from bouvet.formats.virtio.vsock_table import ConnectionTable

CAPACITY = 1024
"""The most connections at once, by default."""

MAX_RESETS = 256
"""The most queued resets of packets that belong to no connection."""

_PACKETS_A_ROUND = 64
_TURNS_A_ROUND = 64
_MAX_BATCH = 32


class Host(Protocol):
    """Who opens the connections that the guest asks for."""

    def connect(self, port: int) -> Endpoint | None:
        """Return the host's end of a new connection to `port`, or None where nothing listens."""
        ...


class VsockDevice:
    """The device of one guest.

    Args:
        guest_cid: The guest's context identifier.
        host: Opens connections for the guest.
        capacity: The most connections at once, those included whose last bytes are still on their way.
    """

    def __init__(self, guest_cid: int, host: Host, capacity: int = CAPACITY) -> None:
        self._guest_cid = guest_cid
        self._host = host
        self._table = ConnectionTable(capacity)
        self._buffers: PacketBuffers | None = None
        self._transmit: Virtqueue | None = None
        self._ready: OrderedDict[Connection, None] = OrderedDict()
        self._resets: deque[bytes] = deque()
        self._packets_wait = False

    @property
    def running(self) -> bool:
        """Whether the driver's queues are there."""
        return self._buffers is not None

    @property
    def busy(self) -> bool:
        """Whether `process` could do more at once, without anything new happening."""
        if self._buffers is None:
            return False
        packets = self._packets_wait and len(self._resets) < MAX_RESETS
        return packets or (not self._buffers.exhausted and bool(self._ready or self._resets))

    @property
    def places(self) -> int:
        """How many times `open` may be called now."""
        return self._table.places if len(self._resets) < MAX_RESETS else 0

    def start(self, receive: Virtqueue, transmit: Virtqueue) -> None:
        """Begin, or go on after `stop`, with the driver's queues; connections are as they were."""
        self._buffers = PacketBuffers(receive)
        self._transmit = transmit
        self._packets_wait = True

    def stop(self) -> None:
        """Leave the queues: what was taken from them and not used is put back. Connections are kept."""
        if self._buffers is not None:
            self._buffers.close()
        self._buffers = self._transmit = None

    def drop_connections(self) -> None:
        """Forget all connections: the guest no longer knows them."""
        for connection in self._table:
            self._remove(connection)
        self._resets.clear()

    def open(self, endpoint: Endpoint, guest_port: int) -> Connection:
        """Ask the guest for a connection to its `guest_port`.

        The endpoint's `accept` is called when the guest agrees; its `close` alone when it refuses.
        """
        host_port = self._table.unused_port(guest_port)
        connection = Connection(endpoint, host_port, guest_port, State.REQUESTED, guest_opened=False)
        self._add(connection)
        self._owe(connection, Operation.REQUEST)
        return connection

    def on_readable(self, connection: Connection, *, ended: bool = False, gone: bool = False) -> None:
        """The host's end has bytes, or its end: to be called once for each new arrival.

        Args:
            connection: Whose end.
            ended: The host program will write no more.
            gone: The host program will not read either.
        """
        connection.readable = True
        connection.ended |= ended
        if connection.state is State.ESTABLISHED:
            self._ready[connection] = None
        elif connection.state is State.REQUESTED and gone:
            if connection.owed is Operation.REQUEST:
                self._remove(connection)
            else:
                self._reset(connection)

    def on_writable(self, connection: Connection) -> None:
        """The host's end may take bytes again."""
        pending = connection.pending
        if not pending:
            return
        with memoryview(pending) as view:
            taken = self._send(connection, [view])
        del pending[:taken]
        self._forwarded(connection, taken)
        if not pending:
            connection.endpoint.watch_writable(False)
            self._table.drained(connection)

    def process(self) -> None:
        """Do a bounded amount of work; `busy` tells whether more is left.

        Raises:
            FormatError: The guest broke the rules; the device must not be used any more.
        """
        if self._buffers is not None and self._transmit is not None:
            self._take_packets(self._transmit)
            self._send_packets(self._buffers)

    # From the guest.

    def _take_packets(self, queue: Virtqueue) -> None:
        queue.suppress_notifications()
        self._packets_wait = True
        for _ in range(_PACKETS_A_ROUND):
            if len(self._resets) >= MAX_RESETS:
                break
            chain = queue.pop()
            if chain is not None:
                self._take_packet(chain)
                queue.push(chain, 0)
            elif queue.request_notifications():
                self._packets_wait = False
                break
        queue.publish()

    def _take_packet(self, chain: Chain) -> None:
        if chain.writable:
            raise FormatError("the driver sends a packet in a writable buffer")
        front, payload = split_pieces(chain.readable, HEADER_SIZE)
        raw = front[0] if len(front) == 1 else b"".join(front)
        if len(raw) < HEADER_SIZE:
            raise FormatError(f"the driver sends a packet of {len(raw)} bytes")
        header = Header(*HEADER.unpack(raw))
        if header.length > MAX_PAYLOAD or header.length > sum(map(len, payload)):
            raise FormatError(f"the driver sends a packet that claims {header.length} bytes of payload")
        if header.source_cid != self._guest_cid or header.destination_cid != HOST_CID:
            return
        connection = self._table.find(header.destination_port, header.source_port)
        if header.kind != STREAM:
            self._refuse(header)
        elif header.operation == Operation.REQUEST:
            self._on_request(connection, header)
        elif connection is None:
            self._refuse(header)
        else:
            connection.take_credit(header)
            self._on_packet(connection, header, payload)

    def _on_packet(self, connection: Connection, header: Header, payload: list[memoryview]) -> None:
        match header.operation:
            case Operation.DATA if connection.state is not State.REQUESTED:
                if connection.state is State.ESTABLISHED and header.length:
                    self._on_data(connection, split_pieces(payload, header.length)[0], header.length)
            case Operation.CREDIT_UPDATE:
                pass
            case Operation.CREDIT_REQUEST:
                self._owe(connection, Operation.CREDIT_UPDATE)
            case Operation.RESPONSE if connection.state is State.REQUESTED:
                self._on_response(connection)
            case Operation.RESET:
                self._remove(connection)
            case Operation.SHUTDOWN:
                connection.shutdown |= header.flags & SHUTDOWN_BOTH
                if connection.shutdown == SHUTDOWN_BOTH:
                    self._reset(connection)
            case _:
                self._reset(connection)
        if connection.state is State.ESTABLISHED and connection.readable and connection.credit():
            self._ready[connection] = None

    def _on_request(self, existing: Connection | None, header: Header) -> None:
        if existing is not None:
            self._reset(existing)
            return
        endpoint = self._host.connect(header.destination_port) if self._table.places_for_guest > 0 else None
        if endpoint is None:
            self._refuse(header)
            return
        connection = Connection(
            endpoint, header.destination_port, header.source_port, State.ESTABLISHED, guest_opened=True
        )
        connection.take_credit(header)
        self._add(connection)
        self._owe(connection, Operation.RESPONSE)

    def _on_response(self, connection: Connection) -> None:
        try:
            connection.endpoint.accept(connection.host_port)
        except OSError:
            self._reset(connection)
            return
        connection.state = State.ESTABLISHED

    def _on_data(self, connection: Connection, pieces: list[memoryview], length: int) -> None:
        pending = connection.pending
        taken = 0
        if not pending:
            taken = self._send(connection, pieces)
            self._forwarded(connection, taken)
        if taken == length:
            return
        if len(pending) + length - taken > BUFFER_SIZE:
            # More than its credit: this guest does not play by the rules.
            self._reset(connection)
            return
        if not pending:
            connection.endpoint.watch_writable(True)
        for piece in split_pieces(pieces, taken)[1] if taken else pieces:
            pending += piece

    def _send(self, connection: Connection, pieces: list[memoryview]) -> int:
        """Pass bytes on; those for a host program that is gone count as taken."""
        if not connection.deaf:
            try:
                return connection.endpoint.send(pieces)
            except OSError:
                connection.deaf = True
        return sum(map(len, pieces))

    def _forwarded(self, connection: Connection, length: int) -> None:
        if connection.count_forwarded(length) and connection.state is State.ESTABLISHED:
            self._owe(connection, Operation.CREDIT_UPDATE)

    def _refuse(self, header: Header) -> None:
        if header.operation != Operation.RESET:
            self._resets.append(pack_reset(header))

    # To the guest.

    def _send_packets(self, buffers: PacketBuffers) -> None:
        buffers.begin()
        for _ in range(_TURNS_A_ROUND):
            if self._resets:
                buffer = buffers.take()
                if buffer is None:
                    break
                buffers.put(buffer, self._resets.popleft(), 0)
            elif self._ready:
                connection, _ = self._ready.popitem(last=False)
                if not self._turn(buffers, connection):
                    self._ready[connection] = None
                    self._ready.move_to_end(connection, last=False)
                    break
            else:
                break
        buffers.publish()

    def _turn(self, buffers: PacketBuffers, connection: Connection) -> bool:
        """Send what one connection has to send, up to a bound; return False when buffers ran out."""
        if connection.owed is not None:
            buffer = buffers.take()
            if buffer is None:
                return False
            flags = SHUTDOWN_BOTH if connection.owed is Operation.SHUTDOWN else 0
            buffers.put(buffer, connection.pack_header(self._guest_cid, connection.owed, 0, flags), 0)
            connection.owed = None
        if connection.state is not State.ESTABLISHED or not connection.readable:
            return True
        credit = connection.credit()
        if credit:
            return self._forward(buffers, connection, credit)
        if connection.must_ask_credit():
            self._owe(connection, Operation.CREDIT_REQUEST)
        return True

    def _forward(self, buffers: PacketBuffers, connection: Connection, credit: int) -> bool:
        """Read from the host's end straight into the guest's buffers; return False when they ran out."""
        taken: list[PacketBuffer] = []
        pieces: list[memoryview] = []
        room = 0
        while room < credit and len(taken) < connection.batch and len(pieces) < MAX_CHAIN:
            buffer = buffers.take()
            if buffer is None:
                break
            taken.append(buffer)
            pieces += buffer.payload
            room += buffer.room
        if not taken:
            return False
        if room > credit:
            pieces, room = split_pieces(pieces, credit)[0], credit
        length = connection.endpoint.receive_into(pieces)
        used = self._put_data(buffers, connection, taken, length) if length else 0
        buffers.keep(taken[used:])
        if length == 0:
            self._table.close_endpoint(connection)
            self._owe(connection, Operation.SHUTDOWN)
            return True
        if length == room:
            connection.batch = min(2 * connection.batch, _MAX_BATCH)
        else:
            # Nothing is left, unless this is the end: then the end itself is yet to be read.
            connection.readable = connection.ended
            connection.batch = max(1, used)
        if connection.readable:
            self._ready[connection] = None
        return True

    def _put_data(
        self, buffers: PacketBuffers, connection: Connection, filled: list[PacketBuffer], length: int
    ) -> int:
        """Make packets of buffers that hold `length` bytes in all; return how many that took."""
        connection.count_sent(length)
        for count, buffer in enumerate(filled, 1):
            part = min(buffer.room, length)
            buffers.put(buffer, connection.pack_header(self._guest_cid, Operation.DATA, part), part)
            length -= part
            if not length:
                return count
        raise AssertionError("more bytes were read than there was room for")

    # Connections.

    def _add(self, connection: Connection) -> None:
        connection.endpoint.attach(connection)
        evicted = self._table.add(connection)
        if evicted is not None:
            self._reset(evicted)

    def _owe(self, connection: Connection, operation: Operation) -> None:
        if connection.owed is None or operation is Operation.SHUTDOWN:
            connection.owed = operation
        self._ready[connection] = None

    def _reset(self, connection: Connection) -> None:
        self._resets.append(connection.pack_header(self._guest_cid, Operation.RESET))
        self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        self._ready.pop(connection, None)
        self._table.remove(connection)
