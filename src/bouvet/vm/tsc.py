"""The rate of the host's time stamp counter, which an emulated x86 guest sees as its own.

QEMU's emulation hands the host's counter through. A guest kernel measures its rate against an emulated
timer; on a busy host about one boot in ten never finishes doing so, and a wrong result would make the
guest's clock drift. So it is measured here and given to the guest (`tsc_early_khz`).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_SECONDS = 0.02
_ATTEMPTS = 5


@functools.cache
def host_tsc_khz() -> int | None:
    """Return the counter's rate in kHz, within about 0.01 %; None where the host has no such counter.

    It takes 20 ms, once in a process.
    """
    if platform.machine() != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a hardened host allows no such memory
        return None
    page.write(_READ_COUNTER)
    anchor = ctypes.c_char.from_buffer(page)
    read_counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
    begin = _sample(read_counter)
    time.sleep(_SECONDS)
    end = _sample(read_counter)
    return round((end[1] - begin[1]) * 1_000_000 / (end[0] - begin[0]))


def _sample(read_counter: ctypes._CFuncPtr) -> tuple[int, int]:  # type: ignore[name-defined]
    """Return the time in nanoseconds and the counter, from the attempt that was disturbed the least."""
    best = None
    for _ in range(_ATTEMPTS):
        before = time.monotonic_ns()
        counter = read_counter()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, counter)
    assert best is not None
    return best[1], best[2]
