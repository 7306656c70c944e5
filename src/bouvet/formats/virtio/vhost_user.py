"""The vhost-user protocol's messages, as the device's side needs them.

Source: QEMU, "Vhost-user Protocol" (docs/interop/vhost-user.rst). A message is a header of 12 bytes and
a payload; file descriptors travel beside its first byte.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import NamedTuple

from bouvet.errors import FormatError

HEADER = struct.Struct("<III")
"""Request, flags, size of the payload in bytes."""
assert HEADER.size == 12

MAX_PAYLOAD = 512
"""The most bytes of payload taken; the largest message used here, a full memory table, has 264."""
MAX_DESCRIPTORS = 8
"""The most file descriptors that come with a message: one for each region of memory."""

_VERSION = 1
_VERSION_MASK = 3
_REPLY = 1 << 2
_NEED_REPLY = 1 << 3


class Request(enum.IntEnum):
    """The front end's messages that a vsock device answers ("Front-end message types")."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24


FEATURE_INDIRECT_DESCRIPTORS = 1 << 28
FEATURE_PROTOCOL_FEATURES = 1 << 30
FEATURE_VERSION_1 = 1 << 32

PROTOCOL_REPLY_ACK = 1 << 3
PROTOCOL_CONFIG = 1 << 9

U64 = struct.Struct("<Q")
VRING_STATE = struct.Struct("<II")
VRING_ADDRESS = struct.Struct("<IIQQQQ")
MEMORY_TABLE = struct.Struct("<II")
MEMORY_REGION = struct.Struct("<QQQQ")
CONFIG = struct.Struct("<III")
assert VRING_STATE.size == 8
assert VRING_ADDRESS.size == 40
assert MEMORY_TABLE.size == 8
assert MEMORY_REGION.size == 32
assert CONFIG.size == 12

_VRING_INDEX = 0xFF
_VRING_NO_DESCRIPTOR = 1 << 8


class RegionDescription(NamedTuple):
    """Where a file descriptor's memory is, all in bytes ("Memory region description")."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int


class VringAddress(NamedTuple):
    """VMM-virtual addresses of a ring's areas ("Vring address description")."""

    ring: int
    flags: int
    descriptors: int
    used: int
    available: int
    log: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the front end.

    Attributes:
        request: Its type; an unknown one stays a plain number.
        flags: The header's flags.
        payload: What follows the header.
    """

    request: int
    flags: int
    payload: bytes

    @property
    def needs_reply(self) -> bool:
        """Whether the front end waits for an acknowledgement (protocol feature REPLY_ACK)."""
        return bool(self.flags & _NEED_REPLY)

    def number(self) -> int:
        """Return the payload as one 64-bit number."""
        value: int = self._unpack(U64)[0]
        return value

    def vring_state(self) -> tuple[int, int]:
        """Return a ring's index and the number that belongs to it."""
        index, value = self._unpack(VRING_STATE)
        return index, value

    def vring_address(self) -> VringAddress:
        """Return where a ring's areas are."""
        return VringAddress(*self._unpack(VRING_ADDRESS))

    def vring_descriptor(self) -> tuple[int, bool]:
        """Return a ring's index, and whether an event's file descriptor comes with the message."""
        value = self.number()
        return value & _VRING_INDEX, not value & _VRING_NO_DESCRIPTOR

    def memory_table(self) -> list[RegionDescription]:
        """Return the regions of the guest's memory, one for each of the message's descriptors."""
        if len(self.payload) < MEMORY_TABLE.size:
            raise self._malformed()
        count, _ = MEMORY_TABLE.unpack_from(self.payload)
        if count > MAX_DESCRIPTORS or len(self.payload) != MEMORY_TABLE.size + count * MEMORY_REGION.size:
            raise self._malformed()
        regions = MEMORY_REGION.iter_unpack(self.payload[MEMORY_TABLE.size :])
        return [RegionDescription(*region) for region in regions]

    def config(self) -> tuple[int, int]:
        """Return which part of the device's configuration space is meant: offset and size in bytes."""
        if len(self.payload) < CONFIG.size:
            raise self._malformed()
        offset, size, _ = CONFIG.unpack_from(self.payload)
        if size > len(self.payload) - CONFIG.size:
            raise self._malformed()
        return offset, size

    def reply(self, payload: bytes) -> bytes:
        """Return the bytes of the answer to this message."""
        return HEADER.pack(self.request, _VERSION | _REPLY, len(payload)) + payload

    def _unpack(self, record: struct.Struct) -> tuple[int, ...]:
        if len(self.payload) != record.size:
            raise self._malformed()
        return record.unpack(self.payload)

    def _malformed(self) -> FormatError:
        return FormatError(f"vhost-user message {self.request} has a payload of {len(self.payload)} bytes")


def payload_size(header: bytes) -> int:
    """Return how many bytes of payload follow a message's header.

    Raises:
        FormatError: Another version of the protocol, or more than `MAX_PAYLOAD`.
    """
    request, flags, size = _header(header)
    if flags & _VERSION_MASK != _VERSION or flags & _REPLY or size > MAX_PAYLOAD:
        raise FormatError(f"vhost-user message {request} has flags {flags:#x} and {size} bytes of payload")
    return size


def parse(message: bytes) -> Message:
    """Return the message in `message`: a header and exactly its payload."""
    request, flags, size = _header(message[: HEADER.size])
    if len(message) != HEADER.size + size:
        raise FormatError(f"vhost-user message {request} has {len(message)} bytes instead of {size}")
    return Message(request, flags, message[HEADER.size :])


def _header(header: bytes) -> tuple[int, int, int]:
    request, flags, size = HEADER.unpack(header)
    return request, flags, size
