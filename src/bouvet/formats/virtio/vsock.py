"""vsock packets and the state of one connection (virtio 1.2, section 5.10).

Credit (section 5.10.6.3): each side tells the other, in every packet, how large its buffer is and how
many bytes have left it. Counters are 32 bits wide and wrap; only their differences mean anything.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

HEADER = struct.Struct("<QQIIIHHIII")
"""Section 5.10.6: the fields of `Header`."""
HEADER_SIZE = 44
assert HEADER.size == HEADER_SIZE

HOST_CID = 2
STREAM = 1
"""The only type of socket offered (VIRTIO_VSOCK_TYPE_STREAM)."""

MAX_PAYLOAD = 1 << 16
"""The most bytes of payload in a packet, either way; Linux never sends more."""

BUFFER_SIZE = 1 << 18
"""Bytes of a connection that the guest may send ahead of the host program: our side of the credit."""

CREDIT_UPDATE_THRESHOLD = BUFFER_SIZE // 4
"""How many bytes may leave the buffer before the guest is told of it unasked."""

SHUTDOWN_RECEIVE = 1
SHUTDOWN_SEND = 2
SHUTDOWN_BOTH = SHUTDOWN_RECEIVE | SHUTDOWN_SEND
"""Flags of `Operation.SHUTDOWN`: the sender will not receive, respectively send, any more."""

_COUNTER = 0xFFFFFFFF


class Operation(enum.IntEnum):
    """Section 5.10.6: what a packet is for (VIRTIO_VSOCK_OP_*)."""

    REQUEST = 1
    RESPONSE = 2
    RESET = 3
    SHUTDOWN = 4
    DATA = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Header(NamedTuple):
    """A packet's header (`struct virtio_vsock_hdr`).

    Attributes:
        source_cid: The sender's context identifier.
        destination_cid: The receiver's.
        source_port: The sender's port.
        destination_port: The receiver's.
        length: Bytes of payload.
        kind: The type of socket.
        operation: An `Operation`, or a number that is none.
        flags: Their meaning depends on the operation.
        buffer_size: The sender's receive buffer in bytes (`buf_alloc`).
        forwarded: How many bytes have left that buffer so far, modulo 2**32 (`fwd_cnt`).
    """

    source_cid: int
    destination_cid: int
    source_port: int
    destination_port: int
    length: int
    kind: int
    operation: int
    flags: int
    buffer_size: int
    forwarded: int


class Endpoint(Protocol):
    """The host's end of a connection: a byte stream that never blocks."""

    def attach(self, connection: Connection) -> None:
        """Learn whose end this is; what happens to it is reported for that connection."""
        ...

    def accept(self, host_port: int) -> None:
        """Tell the host program that the guest has accepted.

        Raises:
            OSError: The program is gone.
        """
        ...

    def send(self, pieces: Sequence[memoryview]) -> int:
        """Pass bytes on to the host program; return how many it took, 0 if none now.

        Raises:
            OSError: It will never take any.
        """
        ...

    def receive_into(self, pieces: Sequence[memoryview]) -> int | None:
        """Fill `pieces` in order; return how many bytes came, 0 at the end, None if none are there now."""
        ...

    def watch_writable(self, wanted: bool) -> None:
        """Say whether to be told when the host program takes bytes again."""
        ...

    def close(self) -> None:
        """Close the host's end. It is not used afterwards."""
        ...


class State(enum.Enum):
    """How far a connection is."""

    REQUESTED = enum.auto()
    """The guest is being asked, and has not answered."""
    ESTABLISHED = enum.auto()
    """Bytes flow."""
    CLOSING = enum.auto()
    """The host's end is gone, the guest has been told, and has not confirmed it."""
    CLOSED = enum.auto()
    """The guest knows it no longer; its last bytes may still be on their way to the host program."""


@dataclass(slots=True, eq=False)
class Connection:
    """One connection between a host program and the guest.

    Attributes:
        endpoint: The host's end.
        host_port: The port that the guest sees as its peer's.
        guest_port: The guest's own.
        state: How far it is.
        guest_opened: Whether the guest asked for it.
        owed: The control packet to send next, if any. All packets carry our credit, so one is enough.
        readable: Whether the host's end may have bytes for the guest.
        ended: Whether the host program writes no more; what it wrote before may still be there.
        deaf: Whether the host program takes nothing any more; what the guest sends is thrown away.
        batch: How many of the guest's buffers the next read may fill.
        shutdown: Which directions the guest has shut (`SHUTDOWN_*`).
        pending: The guest's bytes that the host program has not taken; at most `BUFFER_SIZE`.
    """

    endpoint: Endpoint
    host_port: int
    guest_port: int
    state: State
    guest_opened: bool
    owed: Operation | None = None
    readable: bool = False
    ended: bool = False
    deaf: bool = False
    batch: int = 1
    shutdown: int = 0
    pending: bytearray = field(default_factory=bytearray)
    _credit_asked: bool = False
    _sent: int = 0
    _guest_buffer: int = 0
    _guest_forwarded: int = 0
    _forwarded: int = 0
    _announced: int = 0

    def take_credit(self, header: Header) -> None:
        """Note the guest's buffer as it stands in a packet of this connection."""
        self._guest_buffer = header.buffer_size
        self._guest_forwarded = header.forwarded
        if self.credit():
            self._credit_asked = False

    def credit(self) -> int:
        """Return how many bytes the guest has room for; nothing if its counters make no sense."""
        unread = (self._sent - self._guest_forwarded) & _COUNTER
        return max(0, self._guest_buffer - unread)

    def must_ask_credit(self) -> bool:
        """Return, once each time the credit runs out, whether the guest is to be asked for more."""
        asked, self._credit_asked = self._credit_asked, True
        return not asked

    def count_sent(self, length: int) -> None:
        """Note that `length` bytes went to the guest."""
        self._sent = (self._sent + length) & _COUNTER

    def count_forwarded(self, length: int) -> bool:
        """Note that `length` bytes have left our buffer; return whether the guest should be told."""
        self._forwarded = (self._forwarded + length) & _COUNTER
        return (self._forwarded - self._announced) & _COUNTER >= CREDIT_UPDATE_THRESHOLD

    def pack_header(self, guest_cid: int, operation: Operation, length: int = 0, flags: int = 0) -> bytes:
        """Return the header of a packet to the guest; the guest will then know our credit."""
        self._announced = self._forwarded
        return HEADER.pack(
            HOST_CID, guest_cid, self.host_port, self.guest_port, length, STREAM, operation, flags,
            BUFFER_SIZE, self._forwarded,
        )  # fmt: skip


def pack_reset(header: Header) -> bytes:
    """Return the header of the packet that refuses the guest's packet `header` (section 5.10.6.4)."""
    return HEADER.pack(
        header.destination_cid, header.source_cid, header.destination_port, header.source_port,
        0, header.kind, Operation.RESET, 0, 0, 0,
    )  # fmt: skip


def split_pieces(pieces: Sequence[memoryview], length: int) -> tuple[list[memoryview], list[memoryview]]:
    """Split scattered bytes after `length` bytes, or behind the last one if there are fewer."""
    for number, piece in enumerate(pieces):
        size = len(piece)
        if size == length:
            # By far the most frequent: drivers put headers and payloads into descriptors of their own.
            return [*pieces[: number + 1]], [*pieces[number + 1 :]]
        if size > length:
            return [*pieces[:number], piece[:length]], [piece[length:], *pieces[number + 1 :]]
        length -= size
    return [*pieces], []
