"""Unpacking LZ4's legacy frames, in which Linux kernels are compressed.

Source: lz4's doc/lz4_Frame_format.md ("Legacy frame") and doc/lz4_Block_format.md. A frame is a magic
number and blocks, each preceded by its compressed size in 4 bytes; a block unpacks to 8 MiB, the last to
less. A block is a list of sequences: a token (two lengths of 4 bits), literal bytes, and a copy of what
was unpacked before (its distance in 2 bytes). All numbers are little-endian.
"""

from __future__ import annotations

from bouvet.errors import FormatError

LEGACY_MAGIC = b"\x02\x21\x4c\x18"
BLOCK_SIZE = 8 << 20
_SHORTEST_COPY = 4
_LONGER = 15  # a length of this goes on in the bytes behind, up to the first that is not 255


def unpack_legacy(frame: bytes, size: int) -> bytes:
    """Return the content of a legacy frame.

    Args:
        frame: The frame.
        size: How many bytes the content has.

    Raises:
        FormatError: The bytes are no such frame, are damaged, or hold another number of bytes.
    """
    if not frame.startswith(LEGACY_MAGIC):
        raise FormatError("there is no LZ4 legacy frame")
    out = bytearray()
    place = len(LEGACY_MAGIC)
    while place < len(frame) and len(out) <= size:
        packed = int.from_bytes(frame[place : place + 4], "little")
        block = frame[place + 4 : place + 4 + packed]
        if not packed or len(block) != packed:
            raise FormatError(f"the LZ4 frame is cut short at {place}")
        try:
            out += _unpack_block(block)
        except IndexError as error:
            raise FormatError(f"the LZ4 block at {place} is damaged") from error
        place += 4 + packed
    if len(out) != size:
        raise FormatError(f"the LZ4 frame holds {len(out)} bytes or more, not {size}")
    return bytes(out)


def _unpack_block(block: bytes) -> bytearray:
    out = bytearray()
    place = 0
    while True:
        token = block[place]
        length, place = _length(block, place + 1, token >> 4)
        out += block[place : place + length]
        place += length
        if place >= len(block):
            if place > len(block):
                raise IndexError
            return out
        distance = block[place] | block[place + 1] << 8
        length, place = _length(block, place + 2, token & 15)
        length += _SHORTEST_COPY
        start = len(out) - distance
        if not distance or start < 0 or len(out) + length > BLOCK_SIZE:
            raise IndexError
        # The copy may reach into what it makes: it then repeats.
        piece = out[start : start + length]
        out += (piece * (length // len(piece) + 1))[:length] if len(piece) < length else piece


def _length(block: bytes, place: int, length: int) -> tuple[int, int]:
    if length == _LONGER:
        while True:
            more = block[place]
            place += 1
            length += more
            if more != 255:
                break
    return length, place
