"""Frames: the raw bytes of a stream on a connection of its own.

Each frame is its length, 4 bytes, most significant first, and that many bytes. Two lengths are none: 0
ends the stream, and 0xFFFFFFFF says that its sender has given up.
"""

from __future__ import annotations

import enum
import struct

from bouvet.errors import AgentError

FRAME_LIMIT = 1 << 20
"""Bytes that a frame holds at most."""

_LENGTH = struct.Struct(">I")
assert _LENGTH.size == 4

HEADER_SIZE = _LENGTH.size
"""Bytes of a frame's length."""


class Mark(enum.IntEnum):
    """Lengths that stand for something else."""

    END = 0
    ABORTED = 0xFFFFFFFF


def encode_header(length: int) -> bytes:
    """Return a frame's first bytes: its length, or a mark."""
    assert length in (Mark.END, Mark.ABORTED) or 0 < length <= FRAME_LIMIT
    return _LENGTH.pack(length)


def decode_header(header: bytes) -> int:
    """Return a frame's length, or a mark.

    Args:
        header: `HEADER_SIZE` bytes.

    Raises:
        AgentError: It is over the limit.
    """
    (length,) = _LENGTH.unpack(header)
    if length > FRAME_LIMIT and length != Mark.ABORTED:
        raise AgentError(f"the agent announced a frame of {length} bytes; the limit is {FRAME_LIMIT}")
    return int(length)
