"""Split virtqueues: what a driver may do, and what a hostile one tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.errors import FormatError
from bouvet.formats.virtio.memory import GuestMemory, Region
from bouvet.formats.virtio.virtqueue import (
    INDIRECT,
    MAX_CHAIN,
    NEXT,
    WRITE,
    RingAddresses,
    Virtqueue,
)
from tests.formats.virtio.driver import GUEST_BASE, USER_BASE, DriverQueue, Memory

SIZE = 8


class Setup:
    """A queue with both of its sides, and the interrupts it has raised."""

    def __init__(self, *, size: int = SIZE, start: int = 0, indirect: bool = True) -> None:
        self.memory = Memory(1 << 20)
        self.driver = DriverQueue(self.memory, size, start=start)
        self.interrupts = 0
        self.queue = Virtqueue(
            self.memory.mapped(),
            size,
            self.driver.addresses(),
            base=start,
            indirect=indirect,
            interrupt=self._interrupt,
        )
        self.buffer = self.memory.allocate(4096)

    def _interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_a_chain_is_read_and_given_back(setup: Setup) -> None:
    setup.memory.write(setup.buffer, b"abcdef")
    head = setup.driver.offer(
        [(setup.buffer, 4, False), (setup.buffer + 4, 2, False), (setup.buffer + 8, 8, True)]
    )
    chain = setup.queue.pop()
    assert chain is not None
    assert [bytes(piece) for piece in chain.readable] == [b"abcd", b"ef"]
    chain.writable[0][:5] = b"reply"
    setup.queue.push(chain, 5)
    assert setup.driver.take_used() == []
    setup.queue.publish()
    assert setup.driver.take_used() == [(head, 5)]
    assert setup.memory.read(setup.buffer + 8, 5) == b"reply"
    assert setup.queue.pop() is None
    assert setup.interrupts == 1


def test_an_indirect_table_is_one_chain(setup: Setup) -> None:
    table = setup.memory.allocate(64)
    setup.driver.offer([(setup.buffer, 4, False), (setup.buffer + 4, 4, True)], table=table)
    chain = setup.queue.pop()
    assert chain is not None
    assert [len(piece) for piece in (*chain.readable, *chain.writable)] == [4, 4]


def test_what_was_popped_can_be_put_back(setup: Setup) -> None:
    heads = [setup.driver.offer([(setup.buffer, 1, False)]) for _ in range(3)]
    for _ in range(3):
        setup.queue.pop()
    setup.queue.rewind(2)
    assert setup.queue.position == 1
    chain = setup.queue.pop()
    assert chain is not None
    assert chain.head == heads[1]


def test_the_driver_can_ask_for_silence(setup: Setup) -> None:
    setup.driver.available_words[0] = 1
    setup.driver.offer([(setup.buffer, 1, False)])
    chain = setup.queue.pop()
    assert chain is not None
    setup.queue.push(chain, 0)
    setup.queue.publish()
    assert setup.interrupts == 0


def test_nothing_new_raises_no_interrupt(setup: Setup) -> None:
    setup.queue.publish()
    assert setup.interrupts == 0


def test_notifications_are_asked_for_only_when_nothing_waits(setup: Setup) -> None:
    setup.queue.suppress_notifications()
    assert setup.driver.used_words[0] == 1
    assert setup.queue.request_notifications()
    assert setup.driver.used_words[0] == 0
    setup.driver.offer([(setup.buffer, 1, False)])
    assert not setup.queue.request_notifications()


def test_indexes_wrap_around_many_times() -> None:
    setup = Setup(size=4, start=0xFFFE)
    for number in range(0x10004):
        head = setup.driver.offer([(setup.buffer, 1, True)])
        chain = setup.queue.pop()
        assert chain is not None
        setup.queue.push(chain, 1)
        setup.queue.publish()
        assert setup.driver.take_used() == [(head, 1)], number
    assert setup.queue.position == (0xFFFE + 0x10004) & 0xFFFF


# A hostile driver.


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (GUEST_BASE - 1, 1),
        (GUEST_BASE - 4096, 4097),
        (GUEST_BASE + (1 << 20), 1),
        (GUEST_BASE + (1 << 20) - 1, 2),
        (GUEST_BASE, 0xFFFFFFFF),
        (0xFFFFFFFFFFFFFFFF, 1),
        (0xFFFFFFFFFFFFF000, 0xFFFFFFFF),
        (USER_BASE, 16),
        (0, 0),
    ],
)
@pytest.mark.parametrize("flags", [0, WRITE, INDIRECT])
def test_an_address_outside_the_memory(setup: Setup, address: int, length: int, flags: int) -> None:
    if flags == INDIRECT:
        length = max(16, length & ~15)
    setup.driver.descriptor(0, address, length, flags)
    setup.driver.make_available(0)
    with pytest.raises(FormatError):
        setup.queue.pop()


def test_a_head_outside_the_table(setup: Setup) -> None:
    setup.driver.make_available(SIZE)
    with pytest.raises(FormatError, match="offers descriptor 8 of 8"):
        setup.queue.pop()


def test_an_index_that_leaps(setup: Setup) -> None:
    setup.driver.available_words[1] = SIZE + 1
    with pytest.raises(FormatError, match="9 buffers in a queue of 8"):
        setup.queue.pop()


def test_a_link_outside_the_table(setup: Setup) -> None:
    setup.driver.descriptor(0, setup.buffer, 1, NEXT, SIZE)
    setup.driver.make_available(0)
    with pytest.raises(FormatError, match="leads to number 8 of 8"):
        setup.queue.pop()


@pytest.mark.parametrize("second", [0, 1])
def test_a_circle(setup: Setup, second: int) -> None:
    setup.driver.descriptor(0, setup.buffer, 1, NEXT, 1)
    setup.driver.descriptor(1, setup.buffer, 1, NEXT, second)
    setup.driver.make_available(0)
    with pytest.raises(FormatError, match="circle"):
        setup.queue.pop()


def test_readable_behind_writable(setup: Setup) -> None:
    setup.driver.offer([(setup.buffer, 1, True), (setup.buffer, 1, False)])
    with pytest.raises(FormatError, match="readable piece behind a writable one"):
        setup.queue.pop()


@pytest.mark.parametrize(
    ("length", "flags"),
    [(0, INDIRECT), (15, INDIRECT), (17, INDIRECT), (16 * (MAX_CHAIN + 1), INDIRECT), (16, INDIRECT | NEXT)],
)
def test_an_indirect_table_of_wrong_size_or_within_a_chain(setup: Setup, length: int, flags: int) -> None:
    setup.driver.descriptor(0, setup.buffer, length, flags, 1)
    setup.driver.make_available(0)
    with pytest.raises(FormatError, match="indirect table of"):
        setup.queue.pop()


def test_an_indirect_table_in_a_table(setup: Setup) -> None:
    table = setup.memory.allocate(16)
    setup.memory.write(table, setup.memory.read(setup.driver.descriptors, 16))
    setup.driver.descriptor(0, table, 16, INDIRECT)
    setup.memory.write(table, setup.memory.read(setup.driver.descriptors, 16))
    setup.driver.make_available(0)
    with pytest.raises(FormatError, match="within a chain"):
        setup.queue.pop()


def test_an_indirect_table_that_leads_out_of_itself(setup: Setup) -> None:
    table = setup.memory.allocate(32)
    setup.driver.offer([(setup.buffer, 1, False), (setup.buffer, 1, False)], table=table)
    setup.memory.write(table + 14, b"\x02\x00")
    with pytest.raises(FormatError, match="leads to number 2 of 2"):
        setup.queue.pop()


def test_an_indirect_table_that_was_not_negotiated() -> None:
    setup = Setup(indirect=False)
    setup.driver.offer([(setup.buffer, 1, False)], table=setup.memory.allocate(16))
    with pytest.raises(FormatError, match="indirect table of"):
        setup.queue.pop()


# What the VMM tells.


@pytest.mark.parametrize("size", [0, 3, 2048])
def test_a_queue_size_that_is_not_allowed(setup: Setup, size: int) -> None:
    with pytest.raises(FormatError, match="queue size"):
        _queue(setup, size, setup.driver.addresses())


@pytest.mark.parametrize(
    "change",
    [(8, 0, 0), (0, 1, 0), (0, 0, 2), (1 << 30, 0, 0), (0, 1 << 30, 0), (0, 0, 1 << 30), (-USER_BASE, 0, 0)],
)
def test_rings_that_are_misplaced(setup: Setup, change: tuple[int, int, int]) -> None:
    right = setup.driver.addresses()
    wrong = RingAddresses(right.descriptors + change[0], right.available + change[1], right.used + change[2])
    with pytest.raises(FormatError):
        _queue(setup, SIZE, wrong)


def _queue(setup: Setup, size: int, addresses: RingAddresses) -> Virtqueue:
    return Virtqueue(setup.memory.mapped(), size, addresses, base=0, indirect=True, interrupt=lambda: None)


def test_memory_of_several_regions() -> None:
    views = [memoryview(bytearray(b"a" * 100)), memoryview(bytearray(b"b" * 50))]
    memory = GuestMemory([Region(0, 5000, views[0]), Region(100, 9000, views[1])])
    assert bytes(memory.guest_slice(98, 2)) == b"aa"
    assert bytes(memory.guest_slice(100, 2)) == b"bb"
    assert bytes(memory.user_slice(9000, 1)) == b"b"
    # Neighbours for the guest, and not for the host.
    with pytest.raises(FormatError):
        memory.guest_slice(98, 4)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), min_size=1, max_size=4))
def test_regions_never_overlap(places: list[tuple[int, int]]) -> None:
    regions = [Region(start, start, memoryview(bytearray(size))) for start, size in places]
    taken = [set(range(start, start + size)) for start, size in places]
    right = all(taken) and len(set().union(*taken)) == sum(map(len, taken))
    try:
        GuestMemory(regions)
    except FormatError:
        assert not right
    else:
        assert right
