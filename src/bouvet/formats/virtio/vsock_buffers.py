"""The buffers that a guest offers for packets: taken ahead, filled, and given back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from bouvet.errors import FormatError
from bouvet.formats.virtio.virtqueue import Chain, Virtqueue
from bouvet.formats.virtio.vsock import HEADER_SIZE, MAX_PAYLOAD, split_pieces


@dataclass(slots=True, eq=False)
class PacketBuffer:
    """Where one packet to the guest goes.

    Attributes:
        chain: The buffer in its queue.
        header: The pieces for its header, `HEADER_SIZE` bytes in all.
        payload: The pieces for its payload.
        room: How many bytes the payload may have, 1 to `MAX_PAYLOAD`.
    """

    chain: Chain
    header: list[memoryview]
    payload: list[memoryview]
    room: int


class PacketBuffers:
    """The guest's receive queue.

    Args:
        queue: The queue. Its driver need not notify of new buffers until they have run out.
    """

    def __init__(self, queue: Virtqueue) -> None:
        self._queue = queue
        self._stock: deque[PacketBuffer] = deque()
        self.exhausted = False
        """Whether they have run out; the driver has been asked to notify when there are more."""

    def __len__(self) -> int:
        return len(self._stock)

    def begin(self) -> None:
        """Before a round of `take`: look for buffers again."""
        self.exhausted = False
        self._queue.suppress_notifications()

    def take(self) -> PacketBuffer | None:
        """Return the next buffer, or None if there is none now.

        Raises:
            FormatError: The driver broke the rules.
        """
        if self._stock:
            return self._stock.popleft()
        chain = self._queue.pop()
        if chain is None:
            # Not so if one has come in between: the next round will find it.
            self.exhausted = self._queue.request_notifications()
            return None
        header, payload = split_pieces(chain.writable, HEADER_SIZE)
        room = sum(map(len, payload))
        if chain.readable or not room:
            raise FormatError("the driver offers a receive buffer that is readable or has no room")
        if room > MAX_PAYLOAD:
            payload, room = split_pieces(payload, MAX_PAYLOAD)[0], MAX_PAYLOAD
        return PacketBuffer(chain, header, payload, room)

    def put(self, buffer: PacketBuffer, header: bytes, length: int) -> None:
        """Make a packet of a buffer whose payload holds `length` bytes already."""
        if len(buffer.header) == 1:
            buffer.header[0][:] = header
        else:
            for piece in buffer.header:
                piece[:], header = header[: len(piece)], header[len(piece) :]
        self._queue.push(buffer.chain, HEADER_SIZE + length)

    def keep(self, unused: Sequence[PacketBuffer]) -> None:
        """Keep the last buffers that were taken, in order, for the next packets."""
        self._stock.extendleft(reversed(unused))

    def publish(self) -> None:
        """Have the guest see its packets."""
        self._queue.publish()

    def close(self) -> None:
        """Put what is not used back into the queue; this is not used any more."""
        self._queue.rewind(len(self._stock))
        self._stock.clear()
