"""The record of what a machine prints."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.vm.recorder import LOG_LIMIT, MAX_LINE, TAIL_BYTES, Recorder


class Console:
    """A recorder and the pipe that feeds it."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.lines: list[bytes] = []
        self.times: list[float] = []
        reader, self._writer = os.pipe()
        self.recorder = Recorder(reader, log, self._note)

    def _note(self, line: bytes, when: float) -> None:
        self.lines.append(line)
        self.times.append(when)

    def print(self, text: bytes) -> None:
        view = memoryview(text)
        while view:
            view = view[os.write(self._writer, view) :]

    def end(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        self.recorder.join()


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    console = Console(tmp_path / "console.log")
    yield console
    console.end()


def test_lines_are_told_with_their_time(console: Console) -> None:
    before = time.monotonic()
    console.print(b"first\r\nsec")
    console.print(b"ond\nlast")
    console.end()
    assert console.lines == [b"first", b"second"]
    assert before <= console.times[0] <= console.times[1] <= time.monotonic()
    assert console.log.read_bytes() == b"first\r\nsecond\nlast"
    assert console.recorder.tail(10) == ("first", "second", "last")
    assert console.recorder.tail(1) == ("last",)


def test_the_tail_cannot_play_tricks_with_a_terminal(console: Console) -> None:
    console.print(
        b"\x1b[2J\x1b[1;31mred\x1b[0m\x1b]0;title\x07\x00\x08 \xc2\x9b31m caf\xc3\xa9 \xff\x7f\n\n\x1bc\n"
    )
    console.end()
    (line,) = console.recorder.tail(10)
    assert all(character.isprintable() for character in line)
    assert "red" in line
    assert "café" in line


def test_a_flood_stays_within_bounds(console: Console) -> None:
    piece = b"x" * 100 + b"\n"
    for number in range(3 * LOG_LIMIT // 10_100):
        console.print(piece * 99 + b"%100d\n" % number)
    console.print(b"the end\n")
    console.end()
    older = console.log.with_name("console.log.1")
    assert console.log.stat().st_size + older.stat().st_size <= LOG_LIMIT
    assert console.log.read_bytes().endswith(b"the end\n")
    assert sorted(path.name for path in console.log.parent.iterdir()) == ["console.log", "console.log.1"]
    tail = console.recorder.tail(1_000_000)
    assert tail[-1] == "the end"
    assert sum(map(len, tail)) <= TAIL_BYTES + (1 << 16)


def test_a_line_without_end_stays_within_bounds(console: Console) -> None:
    console.print(b"y" * (10 * MAX_LINE) + b"\nnext\n")
    console.end()
    assert [line[:4] for line in console.lines] == [b"yyyy", b"next"]
    assert all(len(line) <= MAX_LINE for line in console.lines)


def test_a_log_that_cannot_grow_does_not_stop_the_machine(console: Console) -> None:
    console.print(b"first\n")
    console.log.with_name("console.log.1").mkdir()  # the older half cannot be moved there
    console.print((b"z" * 999 + b"\n") * (LOG_LIMIT // 1000))
    console.print(b"last\n")
    console.end()
    assert console.lines[-1] == b"last"
    assert console.log.stat().st_size <= LOG_LIMIT


def test_the_mirror_sees_everything_from_then_on(console: Console) -> None:
    seen: list[bytes] = []
    console.recorder.mirror(seen.append)
    console.print(b"\x1b[1mseen\n")
    console.end()
    assert b"".join(seen) == b"\x1b[1mseen\n"


def test_a_broken_mirror_is_left_out(console: Console) -> None:
    def broken(piece: bytes) -> None:
        raise BrokenPipeError

    console.recorder.mirror(broken)
    console.print(b"first\n")
    console.print(b"second\n")
    console.end()
    assert console.recorder.tail(2) == ("first", "second")
