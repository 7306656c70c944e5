"""Split virtqueues, seen from the device (virtio 1.2, section 2.7).

The driver shares three areas with the device: the descriptor table, the available ring (written by the
driver) and the used ring (written by the device). The driver is hostile here: each field is read once
into a Python integer, checked, and then used; nothing that it writes later changes what was checked.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from bouvet.errors import FormatError
from bouvet.formats.virtio.memory import GuestMemory

MAX_QUEUE_SIZE = 1024
"""The largest queue that QEMU makes."""
MAX_CHAIN = 512
"""The most pieces of one buffer; two such buffers fit into one system call (IOV_MAX)."""

DESCRIPTOR = struct.Struct("<QIHH")
"""Section 2.7.5: guest-physical address, length, flags, next."""
USED_ELEMENT = struct.Struct("<II")
"""Section 2.7.8: index of the chain's head, bytes written into the chain."""
assert DESCRIPTOR.size == 16
assert USED_ELEMENT.size == 8
# 16-bit fields are accessed in the host's byte order, in one piece; virtio's is little-endian.
assert sys.byteorder == "little"

NEXT = 1
WRITE = 2
INDIRECT = 4
"""Descriptor flags, section 2.7.5."""

_RING_HEADER = 4  # flags and index, 16 bits each
_EVENT = 2  # used_event, respectively avail_event: there whether negotiated or not
_NO_NOTIFY = 1  # used.flags: the device needs no notification of new buffers
_NO_INTERRUPT = 1  # avail.flags: the driver needs no notification of used buffers

_barrier = threading.Lock()
_barrier.acquire()


def memory_barrier() -> None:
    """Order all earlier loads and stores before all later ones.

    Python has no fence. Releasing and taking a lock are atomic operations with release and acquire
    order; in this sequence they form a full barrier on x86-64 (locked instructions) and on AArch64 (a
    store-release followed by a load-acquire is not reordered).
    """
    _barrier.release()
    _barrier.acquire()


@dataclass(slots=True, eq=False)
class Chain:
    """One buffer that the driver made available.

    Attributes:
        head: The descriptor that names it in the used ring.
        readable: The pieces that the device may read, in order.
        writable: The pieces that the device may write, in order.
    """

    head: int
    readable: list[memoryview]
    writable: list[memoryview]


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """Where the three areas are, VMM-virtual, in bytes."""

    descriptors: int
    available: int
    used: int


class Virtqueue:
    """One queue.

    Args:
        memory: The guest's memory.
        size: The number of descriptors: a power of 2, at most `MAX_QUEUE_SIZE`.
        addresses: Where the rings are.
        base: The available ring's position to go on from, 0 to 65535.
        indirect: Whether VIRTIO_F_INDIRECT_DESC was negotiated.
        interrupt: Called when the driver is to be told of used buffers.

    Raises:
        FormatError: The rings are misaligned or outside the memory, or the size is wrong.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        addresses: RingAddresses,
        *,
        base: int,
        indirect: bool,
        interrupt: Callable[[], None],
    ) -> None:
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise FormatError(f"the queue size {size} is not a power of 2 up to {MAX_QUEUE_SIZE}")
        if addresses.descriptors % 16 or addresses.available % 2 or addresses.used % 4:
            raise FormatError("a ring's address is not aligned as virtio demands")
        self._memory = memory
        self._size = size
        self._mask = size - 1
        self._indirect = indirect
        self._interrupt = interrupt
        self._descriptors = memory.user_slice(addresses.descriptors, DESCRIPTOR.size * size)
        available = memory.user_slice(addresses.available, _RING_HEADER + 2 * size + _EVENT)
        self._used = memory.user_slice(addresses.used, _RING_HEADER + USED_ELEMENT.size * size + _EVENT)
        # As 16-bit items: a load or store is one instruction and never torn.
        self._available = available.cast("H")
        self._used_words = self._used[:_RING_HEADER].cast("H")
        self._next_available = base
        self._known_available = base
        self._next_used: int = self._used_words[1]
        self._published = True

    @property
    def position(self) -> int:
        """Where in the available ring the next buffer will be taken, 0 to 65535."""
        return self._next_available

    def rewind(self, count: int) -> None:
        """Put the last `count` buffers that were popped, and not pushed, back into the ring."""
        self._next_available = (self._next_available - count) & 0xFFFF

    def pop(self) -> Chain | None:
        """Take the next available buffer, or return None where there is none.

        Raises:
            FormatError: The driver broke the rules of the ring.
        """
        if self._next_available == self._known_available and not self._look():
            return None
        head: int = self._available[2 + (self._next_available & self._mask)]
        if head >= self._size:
            raise FormatError(f"the driver offers descriptor {head} of {self._size}")
        self._next_available = (self._next_available + 1) & 0xFFFF
        chain = Chain(head, [], [])
        address, length, flags, following = DESCRIPTOR.unpack_from(self._descriptors, head * 16)
        if flags & INDIRECT:
            self._walk_indirect(chain, address, length, flags)
        else:
            self._walk(chain, self._descriptors, self._size, (address, length, flags, following))
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Give a buffer back with `written` bytes in it; the driver sees it after `publish`."""
        USED_ELEMENT.pack_into(
            self._used, _RING_HEADER + (self._next_used & self._mask) * 8, chain.head, written
        )
        self._next_used = (self._next_used + 1) & 0xFFFF
        self._published = False

    def publish(self) -> None:
        """Make all pushed buffers visible to the driver, and interrupt it unless it asked not to."""
        if self._published:
            return
        self._published = True
        memory_barrier()
        self._used_words[1] = self._next_used
        memory_barrier()
        if not self._available[0] & _NO_INTERRUPT:
            self._interrupt()

    def suppress_notifications(self) -> None:
        """Tell the driver that new buffers need not be notified (a hint: some may be all the same)."""
        self._used_words[0] = _NO_NOTIFY

    def request_notifications(self) -> bool:
        """Ask for a notification of the next new buffer; False if there is one already."""
        self._used_words[0] = 0
        memory_barrier()
        idle: bool = self._available[1] == self._next_available
        return idle

    def _look(self) -> bool:
        """Look for buffers that have become available."""
        index: int = self._available[1]
        waiting = (index - self._next_available) & 0xFFFF
        if waiting > self._size:
            raise FormatError(f"the driver offers {waiting} buffers in a queue of {self._size}")
        self._known_available = index
        # The index is read before the entries and the descriptors that it covers.
        memory_barrier()
        return bool(waiting)

    def _walk_indirect(self, chain: Chain, address: int, length: int, flags: int) -> None:
        """Section 2.7.5.3: the descriptor names a table that holds the whole chain."""
        count, rest = divmod(length, DESCRIPTOR.size)
        if not self._indirect or flags & NEXT or rest or not 0 < count <= MAX_CHAIN:
            raise FormatError(f"the driver offers an indirect table of {length} bytes with flags {flags:#x}")
        table = self._memory.guest_slice(address, length)
        self._walk(chain, table, count, DESCRIPTOR.unpack_from(table, 0))

    def _walk(
        self, chain: Chain, table: memoryview, count: int, descriptor: tuple[int, int, int, int]
    ) -> None:
        address, length, flags, following = descriptor
        for _ in range(min(count, MAX_CHAIN)):
            if flags & INDIRECT:
                raise FormatError("the driver offers an indirect table within a chain")
            piece = self._memory.guest_slice(address, length)
            if flags & WRITE:
                chain.writable.append(piece)
            elif chain.writable:
                raise FormatError("the driver offers a readable piece behind a writable one")
            else:
                chain.readable.append(piece)
            if not flags & NEXT:
                return
            if following >= count:
                raise FormatError(f"a descriptor leads to number {following} of {count}")
            address, length, flags, following = DESCRIPTOR.unpack_from(table, following * 16)
        raise FormatError("the driver offers a chain of descriptors that is too long or runs in a circle")
