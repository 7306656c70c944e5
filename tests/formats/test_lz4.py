"""LZ4's legacy frames."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.errors import FormatError
from bouvet.formats.lz4 import BLOCK_SIZE, LEGACY_MAGIC, unpack_legacy


def frame(*blocks: bytes) -> bytes:
    return LEGACY_MAGIC + b"".join(len(block).to_bytes(4, "little") + block for block in blocks)


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (b"\x50hello", b"hello"),
        (b"\xf0\x00" + b"a" * 15, b"a" * 15),
        (b"\xf0\xff\x01" + b"a" * 271, b"a" * 271),
        (b"\x40abcd\x04\x00\x10!", b"abcd" + b"abcd" + b"!"),  # a copy of what is there
        (b"\x12a\x01\x00\x10!", b"a" * 7 + b"!"),  # one that repeats
        (b"\x2fab\x02\x00\x03\x10!", b"ab" * 12 + b"!"),  # 22 bytes by repeating two
    ],
)
def test_blocks_of_the_specification(block: bytes, content: bytes) -> None:
    assert unpack_legacy(frame(block), len(content)) == content
    assert unpack_legacy(frame(block, block), 2 * len(content)) == content * 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x04\x22\x4d\x18" + bytes(20),  # the frame that is not the legacy one
        frame(b"\x50hell"),
        frame(b"\x50hello")[:-1],
        frame(b"\x50hello") + b"\x01",
        frame(b""),
        frame(b"\x40abcd\x05\x00\x10!"),  # a distance beyond the beginning
        frame(b"\x40abcd\x00\x00\x10!"),  # a distance of nothing
        frame(b"\x40abcd\x04"),
        frame(b"\xf0\xff"),
        frame(b"\x1fa\x01\x00" + b"\xff" * (BLOCK_SIZE // 255 + 1) + b"\x00\x10!"),  # more than a block
    ],
)
def test_damage_is_noticed(damaged: bytes) -> None:
    with pytest.raises(FormatError):
        unpack_legacy(damaged, 5)


@pytest.mark.parametrize("size", [0, 4, 6])
def test_another_size_is_noticed(size: int) -> None:
    with pytest.raises(FormatError):
        unpack_legacy(frame(b"\x50hello"), size)


@given(st.binary(max_size=300), st.integers(0, 1000))
def test_noise_is_an_error_or_a_content(noise: bytes, size: int) -> None:
    try:
        content = unpack_legacy(LEGACY_MAGIC + noise, size)
    except FormatError:
        return
    assert len(content) == size


@pytest.mark.needs_tool("lz4")
def test_what_the_lz4_program_packs() -> None:
    text = Path(__file__).read_bytes() * 4000
    assert len(text) > BLOCK_SIZE
    packed = subprocess.run(
        ["lz4", "-l", "-9", "-c"], input=text, check=True, capture_output=True, timeout=60
    )
    assert unpack_legacy(packed.stdout, len(text)) == text
