"""A guest's memory as the host has mapped it: regions, and bounds-checked slices of them.

Every address here was chosen by the guest or by the VMM. No slice ever reaches outside the one region
that holds its start, so that a hostile address ends in an error and not in somebody else's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bouvet.errors import FormatError

ADDRESS_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class Region:
    """One contiguous piece of guest memory.

    Attributes:
        guest_address: Where the guest sees it (guest-physical, in bytes).
        user_address: Where the VMM sees it (VMM-virtual, in bytes); ring addresses are told in this form.
        view: The mapped bytes, writable, one byte an item.
    """

    guest_address: int
    user_address: int
    view: memoryview


class GuestMemory:
    """All regions of a guest.

    Args:
        regions: The regions, in any order.

    Raises:
        FormatError: Regions are empty, overlap, or reach past the end of the address space.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self._guest = _table([(region.guest_address, region.view) for region in regions])
        self._user = _table([(region.user_address, region.view) for region in regions])

    def guest_slice(self, address: int, length: int) -> memoryview:
        """Return `length` bytes at the guest-physical `address`.

        Raises:
            FormatError: They do not lie within one region.
        """
        for start, end, view in self._guest:
            if start <= address and address + length <= end:
                return view[address - start : address - start + length]
        raise FormatError(f"the guest's address {address:#x} (+{length}) is outside its memory")

    def user_slice(self, address: int, length: int) -> memoryview:
        """Return `length` bytes at the VMM-virtual `address`.

        Raises:
            FormatError: They do not lie within one region.
        """
        for start, end, view in self._user:
            if start <= address and address + length <= end:
                return view[address - start : address - start + length]
        raise FormatError(f"the ring address {address:#x} (+{length}) is outside the guest's memory")


def _table(places: list[tuple[int, memoryview]]) -> list[tuple[int, int, memoryview]]:
    # The largest first: nearly every buffer of a guest lies in it.
    table = [(start, start + len(view), view) for start, view in places]
    limit = ADDRESS_LIMIT
    for start, end, _ in sorted(table, key=lambda place: place[0], reverse=True):
        if start >= end or end > limit:
            raise FormatError(f"the memory region at {start:#x} is empty or reaches into the next one")
        limit = start
    return sorted(table, key=lambda place: place[0] - place[1])
