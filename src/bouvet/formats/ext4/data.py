"""The files' content of an image: where it lies, copying it, and what an older image has of it already.

An image that was written from layers can become another one by writing only what differs. For that, its
`places` are kept beside it; `present_spans` finds out of them what stays where it is.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bouvet.formats.ext4.plan import Copy, Ext4Plan

Progress = Callable[[float], None]
"""Is told how much of the file system is written, from 0 to 1."""

_ZEROS = bytes(8 << 20)
_LIBC = ctypes.CDLL(None, use_errno=True)
# linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


class Span(NamedTuple):
    """Bytes of an image, from `start` to before `stop`."""

    start: int
    stop: int


class Place(NamedTuple):
    """Bytes of a source that lie in an image.

    Attributes:
        identity: The source's.
        source_offset: Where the bytes begin in it.
        length: How many they are.
        image_offset: Where they begin in the image.
    """

    identity: str
    source_offset: int
    length: int
    image_offset: int


def places(plan: Ext4Plan) -> list[Place]:
    """Return where an image has bytes of sources that can be told again."""
    return [
        Place(copy.source.identity, copy.source_offset, copy.length, copy.image_offset)
        for copy in plan.copies
        if copy.source.identity is not None
    ]


def present_spans(plan: Ext4Plan, known: Iterable[Place]) -> list[Span]:
    """Return where an image with these places, ascending ones, has what the plan wants there; ascending."""
    shifts: defaultdict[tuple[str, int], list[Span]] = defaultdict(list)
    for place in known:
        span = Span(place.image_offset, place.image_offset + place.length)
        shifts[place.identity, place.image_offset - place.source_offset].append(span)
    found: list[Span] = []
    for copy in plan.copies:
        if copy.source.identity is None:
            continue
        old = shifts.get((copy.source.identity, copy.image_offset - copy.source_offset), [])
        stop = copy.image_offset + copy.length
        for span in old[bisect.bisect_right(old, copy.image_offset, key=lambda span: span.stop) :]:
            if span.start >= stop:
                break
            found.append(Span(max(span.start, copy.image_offset), min(span.stop, stop)))
    return found


def missing_copies(plan: Ext4Plan, present: Sequence[Span]) -> list[Copy]:
    """Return what is left of a plan's copies outside of spans that lie within them, ascending ones."""
    found: list[Copy] = []
    spans = iter([*present, Span(sys.maxsize, sys.maxsize)])
    span = next(spans)
    for copy in plan.copies:
        start, end = copy.image_offset, copy.image_offset + copy.length
        while start < end:
            stop = min(end, span.start)
            if start < stop:
                source_offset = copy.source_offset + start - copy.image_offset
                found.append(Copy(copy.source, source_offset, stop - start, start))
            start = stop
            if start == span.start:
                start, span = span.stop, next(spans)
    return found


def copy_data(
    copies: Sequence[Copy], descriptor: int, progress: Progress | None, stop: threading.Event
) -> None:
    """Copy content into an image, until it is done or nobody waits for it any more."""
    total = sum(copy.length for copy in copies)
    done = 0
    for copy in copies:
        if stop.is_set():
            return
        copy.source.copy(copy.source_offset, copy.length, descriptor, copy.image_offset)
        done += copy.length
        if progress is not None:
            progress(done / total)


def clear(descriptor: int, size: int, present: Sequence[Span]) -> None:
    """Give a file a length, and make everything in it zero but for the spans, ascending ones."""
    os.ftruncate(descriptor, present[-1].stop if present else 0)
    os.ftruncate(descriptor, size)
    start = 0
    for span in present:
        _punch(descriptor, start, span.start)
        start = span.stop


def _punch(descriptor: int, start: int, stop: int) -> None:
    """Make a part of a file a hole, by fallocate(2); write zeros where the file system has none."""
    if start == stop:
        return
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    while _LIBC.fallocate(descriptor, mode, ctypes.c_int64(start), ctypes.c_int64(stop - start)):
        match ctypes.get_errno():
            case errno.EINTR:
                continue
            case errno.EOPNOTSUPP:
                break
            case other:
                raise OSError(other, os.strerror(other))
    else:
        return
    while start < stop:
        start += os.pwrite(descriptor, _ZEROS[: stop - start], start)
