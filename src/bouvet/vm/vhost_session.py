"""QEMU's half of a vsock device: what it says over vhost-user, done.

QEMU is trusted more than the guest, but not to be free of mistakes: messages are bounded, descriptors
are closed on every path, and what makes no sense ends the session with a reason.
"""

from __future__ import annotations

import mmap
import os
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

from bouvet.errors import FormatError
from bouvet.formats.virtio import vhost_user
from bouvet.formats.virtio.memory import GuestMemory, Region
from bouvet.formats.virtio.vhost_user import Message, Request
from bouvet.formats.virtio.virtqueue import RingAddresses, Virtqueue
from bouvet.formats.virtio.vsock_device import VsockDevice

_FEATURES = (
    vhost_user.FEATURE_VERSION_1
    | vhost_user.FEATURE_INDIRECT_DESCRIPTORS
    | vhost_user.FEATURE_PROTOCOL_FEATURES
)
_PROTOCOL_FEATURES = vhost_user.PROTOCOL_REPLY_ACK | vhost_user.PROTOCOL_CONFIG
_RINGS = 2  # receive and transmit; QEMU keeps the event queue to itself
_DESCRIPTOR = struct.Struct("i")


@dataclass(slots=True)
class _Ring:
    """What QEMU has told of one queue."""

    size: int = 0
    base: int = 0
    addresses: RingAddresses | None = None
    kick: int = -1
    call: int = -1
    enabled: bool = False

    @property
    def complete(self) -> bool:
        return self.size > 0 and self.addresses is not None and self.kick >= 0 and self.enabled


class SessionEnded(Exception):
    """QEMU has closed its end."""


class VhostSession:
    """The connection to QEMU.

    Args:
        front_end: The socket; it is made non-blocking.
        device: The device that the messages configure.
        guest_cid: What the device's configuration space holds.
        watch: Called with a descriptor that signals new buffers, when there is one.
        unwatch: Called with such a descriptor before it is closed.
    """

    def __init__(
        self,
        front_end: socket.socket,
        device: VsockDevice,
        guest_cid: int,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        front_end.setblocking(False)
        self._socket = front_end
        self._device = device
        self._config = vhost_user.U64.pack(guest_cid)
        self._watch = watch
        self._unwatch = unwatch
        self._features = 0
        self._memory: GuestMemory | None = None
        self._rings = [_Ring() for _ in range(_RINGS)]
        self._queues: list[Virtqueue] = []
        self._partial = bytearray()
        self._descriptors: list[int] = []

    def on_readable(self) -> None:
        """Take what QEMU has sent, at most one message.

        Raises:
            SessionEnded: Nothing more will come.
            FormatError: The message makes no sense.
            OSError: The message cannot be obeyed.
        """
        if not self._receive():
            return
        message = vhost_user.parse(bytes(self._partial))
        descriptors, self._descriptors = self._descriptors, []
        self._partial.clear()
        try:
            reply = self._obey(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if reply is None and message.needs_reply:
            reply = vhost_user.U64.pack(0)
        if reply is not None:
            answer = message.reply(reply)
            if self._socket.send(answer) != len(answer):
                raise FormatError("QEMU does not read the answers to its messages")

    def close(self) -> None:
        """Let go of the guest's memory and of all descriptors."""
        self._stop()
        for ring in self._rings:
            self._replace_kick(ring, -1)
            self._replace_call(ring, -1)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._memory = None

    def _receive(self) -> bool:
        """Read up to the end of the header or of the message; return whether a message is complete.

        Never more: the descriptors that come with a read belong to the message that it began.
        """
        have = len(self._partial)
        wanted = vhost_user.HEADER.size
        if have >= wanted:
            wanted += vhost_user.payload_size(bytes(self._partial[: vhost_user.HEADER.size]))
        if have < wanted:
            room = socket.CMSG_SPACE(vhost_user.MAX_DESCRIPTORS * _DESCRIPTOR.size)
            try:
                piece, controls, flags, _ = self._socket.recvmsg(wanted - have, room)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                raise SessionEnded from None
            for level, kind, data in controls:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    whole = len(data) - len(data) % _DESCRIPTOR.size
                    self._descriptors += [number for (number,) in _DESCRIPTOR.iter_unpack(data[:whole])]
            if not piece:
                raise SessionEnded
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > vhost_user.MAX_DESCRIPTORS:
                raise FormatError("QEMU sends too many file descriptors")
            self._partial += piece
        if len(self._partial) < vhost_user.HEADER.size:
            return False
        size = vhost_user.payload_size(bytes(self._partial[: vhost_user.HEADER.size]))
        return len(self._partial) == vhost_user.HEADER.size + size

    def _obey(self, message: Message, descriptors: list[int]) -> bytes | None:
        """Do what a message says; return the payload of its answer. What is kept leaves `descriptors`."""
        match message.request:
            case Request.GET_FEATURES:
                return vhost_user.U64.pack(_FEATURES)
            case Request.GET_PROTOCOL_FEATURES:
                return vhost_user.U64.pack(_PROTOCOL_FEATURES)
            case Request.GET_CONFIG:
                return self._get_config(message)
            case Request.GET_VRING_BASE:
                return self._get_base(message)
            case _:
                self._stop()
                self._set(message, descriptors)
                self._restart()
        return None

    def _set(self, message: Message, descriptors: list[int]) -> None:
        match message.request:
            case Request.SET_FEATURES:
                self._features = _subset(message.number(), _FEATURES)
            case Request.SET_PROTOCOL_FEATURES:
                _subset(message.number(), _PROTOCOL_FEATURES)
            case Request.SET_OWNER | Request.RESET_OWNER:
                pass
            case Request.SET_MEM_TABLE:
                self._memory = _map_memory(message, descriptors)
            case _:
                self._set_ring(message, descriptors)

    def _set_ring(self, message: Message, descriptors: list[int]) -> None:
        match message.request:
            case Request.SET_VRING_NUM:
                ring, value = self._ring_value(message)
                ring.size = value
            case Request.SET_VRING_BASE:
                ring, value = self._ring_value(message)
                # The guest's driver has begun anew, unless the ring goes on where it stopped.
                if value == 0 or value != ring.base:
                    self._device.drop_connections()
                ring.base = value & 0xFFFF
            case Request.SET_VRING_ADDR:
                address = message.vring_address()
                self._ring(address.ring).addresses = RingAddresses(
                    address.descriptors, address.available, address.used
                )
            case Request.SET_VRING_ENABLE:
                ring, value = self._ring_value(message)
                ring.enabled = bool(value)
            case Request.SET_VRING_KICK:
                ring, descriptor = self._ring_event(message, descriptors)
                if descriptor < 0:
                    raise FormatError("QEMU gives no event for new buffers: polling is not offered")
                self._replace_kick(ring, descriptor)
                descriptors.clear()
                # Without the feature, queues have no switch of their own.
                ring.enabled |= not self._features & vhost_user.FEATURE_PROTOCOL_FEATURES
            case Request.SET_VRING_CALL:
                ring, descriptor = self._ring_event(message, descriptors)
                self._replace_call(ring, descriptor)
                descriptors.clear()
            case Request.SET_VRING_ERR:
                self._ring_event(message, descriptors)
            case other:
                raise FormatError(f"vhost-user message {other} is not known here")

    def _get_config(self, message: Message) -> bytes:
        offset, size = message.config()
        if offset + size > len(self._config):
            # An answer without payload is the protocol's way to refuse.
            return b""
        return message.payload[: vhost_user.CONFIG.size] + self._config[offset : offset + size]

    def _get_base(self, message: Message) -> bytes:
        index, _ = message.vring_state()
        ring = self._ring(index)
        self._stop()
        self._replace_kick(ring, -1)
        ring.enabled = False
        return vhost_user.VRING_STATE.pack(index, ring.base)

    def _stop(self) -> None:
        """Leave the queues, and note where they are to go on."""
        self._device.stop()
        for ring, queue in zip(self._rings, self._queues, strict=False):
            ring.base = queue.position
        self._queues.clear()

    def _restart(self) -> None:
        """Take up the queues as they are described now, if they are complete."""
        if self._memory is None or not all(ring.complete for ring in self._rings):
            return
        self._queues = [self._queue(self._memory, ring) for ring in self._rings]
        self._device.start(*self._queues)

    def _queue(self, memory: GuestMemory, ring: _Ring) -> Virtqueue:
        def interrupt() -> None:
            if ring.call >= 0:
                os.eventfd_write(ring.call, 1)

        assert ring.addresses is not None
        return Virtqueue(
            memory,
            ring.size,
            ring.addresses,
            base=ring.base,
            indirect=bool(self._features & vhost_user.FEATURE_INDIRECT_DESCRIPTORS),
            interrupt=interrupt,
        )

    def _ring(self, index: int) -> _Ring:
        if index >= _RINGS:
            raise FormatError(f"QEMU speaks of ring {index} of {_RINGS}")
        return self._rings[index]

    def _ring_value(self, message: Message) -> tuple[_Ring, int]:
        index, value = message.vring_state()
        return self._ring(index), value

    def _ring_event(self, message: Message, descriptors: list[int]) -> tuple[_Ring, int]:
        """Return the ring that a message is about and the descriptor of its event, -1 for none."""
        index, present = message.vring_descriptor()
        ring = self._ring(index)
        if len(descriptors) != present:
            raise FormatError(f"QEMU announces {present:d} descriptors and sends {len(descriptors)}")
        # An eventfd is of no type; signalling through the guest's memory would write into it.
        if present and stat.S_IFMT(os.fstat(descriptors[0]).st_mode):
            raise FormatError("QEMU sends a file or a socket where an eventfd is due")
        return ring, descriptors[0] if present else -1

    def _replace_kick(self, ring: _Ring, descriptor: int) -> None:
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
            self._watch(descriptor)
        if ring.kick >= 0:
            self._unwatch(ring.kick)
            os.close(ring.kick)
        ring.kick = descriptor

    @staticmethod
    def _replace_call(ring: _Ring, descriptor: int) -> None:
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
        if ring.call >= 0:
            os.close(ring.call)
        ring.call = descriptor


def _map_memory(message: Message, descriptors: list[int]) -> GuestMemory:
    table = message.memory_table()
    if len(table) != len(descriptors):
        raise FormatError(f"QEMU describes {len(table)} memory regions by {len(descriptors)} descriptors")
    regions = []
    for description, descriptor in zip(table, descriptors, strict=True):
        end = description.mmap_offset + description.size
        if not 0 < end <= os.fstat(descriptor).st_size:
            raise FormatError(f"QEMU describes a memory region that ends at {end:#x} of its file")
        # From the file's start: an offset need not be a multiple of the file's page size.
        view = memoryview(mmap.mmap(descriptor, end))[description.mmap_offset : end]
        regions.append(Region(description.guest_address, description.user_address, view))
    return GuestMemory(regions)


def _subset(asked: int, offered: int) -> int:
    if asked & ~offered:
        raise FormatError(f"QEMU takes features {asked & ~offered:#x} that were not offered")
    return asked
