"""vhost-user messages: the layout of each, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.errors import FormatError
from bouvet.formats.virtio import vhost_user
from bouvet.formats.virtio.vhost_user import HEADER, MAX_PAYLOAD, Message, Request


def message(request: int, payload: bytes, flags: int = 1) -> Message:
    return vhost_user.parse(HEADER.pack(request, flags, len(payload)) + payload)


def test_the_layout_of_a_message() -> None:
    """SET_VRING_NUM of ring 1 to 128, with an acknowledgement asked for, written out by hand."""
    raw = bytes.fromhex("08000000 09000000 08000000 01000000 80000000")
    assert vhost_user.payload_size(raw[:12]) == 8
    parsed = vhost_user.parse(raw)
    assert parsed.request == Request.SET_VRING_NUM
    assert parsed.needs_reply
    assert parsed.vring_state() == (1, 128)
    assert parsed.reply(b"answer") == bytes.fromhex("08000000 05000000 06000000") + b"answer"


def test_addresses_keep_their_order() -> None:
    address = message(9, vhost_user.VRING_ADDRESS.pack(1, 0, 2, 3, 4, 5)).vring_address()
    assert (address.ring, address.descriptors, address.used, address.available) == (1, 2, 3, 4)


def test_a_memory_table() -> None:
    payload = vhost_user.MEMORY_TABLE.pack(2, 0)
    payload += vhost_user.MEMORY_REGION.pack(0, 4096, 1 << 40, 0)
    payload += vhost_user.MEMORY_REGION.pack(1 << 32, 8192, 1 << 41, 4096)
    first, second = message(5, payload).memory_table()
    assert (first.guest_address, first.size, first.user_address, first.mmap_offset) == (0, 4096, 1 << 40, 0)
    assert (second.guest_address, second.mmap_offset) == (1 << 32, 4096)


@pytest.mark.parametrize(("value", "expected"), [(1, (1, True)), (0x100, (0, False)), (0x1FF, (255, False))])
def test_an_event_may_be_absent(value: int, expected: tuple[int, bool]) -> None:
    assert message(12, vhost_user.U64.pack(value)).vring_descriptor() == expected


@pytest.mark.parametrize(("flags", "size"), [(1, MAX_PAYLOAD + 1), (1, 0xFFFFFFFF), (0, 8), (2, 8), (5, 8)])
def test_headers_that_are_refused(flags: int, size: int) -> None:
    with pytest.raises(FormatError):
        vhost_user.payload_size(HEADER.pack(1, flags, size))


@given(st.binary(max_size=MAX_PAYLOAD))
def test_any_payload_is_understood_or_refused(payload: bytes) -> None:
    parsed = message(1, payload)
    for field in (
        Message.number,
        Message.vring_state,
        Message.vring_address,
        Message.vring_descriptor,
        Message.memory_table,
        Message.config,
    ):
        with contextlib.suppress(FormatError):
            field(parsed)
    with contextlib.suppress(FormatError):
        _, size = parsed.config()
        assert size <= len(payload)


@given(st.binary(min_size=12, max_size=64))
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert len(vhost_user.parse(raw).payload) == len(raw) - 12
