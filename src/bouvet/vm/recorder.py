"""Recording what a machine prints, without trust in its modesty.

A guest can print without end: the record on disk has a limit, beyond which the older half goes, and
only the last part is kept in memory.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

LOG_LIMIT = 2 << 20
"""The most bytes on disk, in two files of half that: `NAME` and, older, `NAME.1`."""

TAIL_BYTES = 1 << 15
"""How much is kept in memory."""

MAX_LINE = 4096
"""Bytes of a line that are looked at."""

_CHUNK = 1 << 16
# Control sequences, other escape sequences, and all other control characters (ECMA-48).
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]|[^\t -~\xa0-\U0010ffff]")

LineListener = Callable[[bytes, float], None]


class Recorder:
    """Reads a descriptor to its end in a thread of its own.

    Args:
        descriptor: A pipe or a stream socket; it is closed at its end.
        log: The file to write to.
        on_line: Called with each line, without its end, and the time (`time.monotonic`) it came.
    """

    def __init__(self, descriptor: int, log: Path, on_line: LineListener | None = None) -> None:
        self._descriptor = descriptor
        self._path = log
        self._on_line = on_line
        self._mirror: Callable[[bytes], None] | None = None
        self._lock = threading.Lock()
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self._partial = b""
        self._thread = threading.Thread(target=self._run, name=f"record {log.name}", daemon=True)
        self._thread.start()

    def tail(self, lines: int) -> tuple[str, ...]:
        """Return the last lines that are not empty, without control characters."""
        with self._lock:
            text = b"".join(self._pieces).decode(errors="replace")
        cleaned = (_CONTROL.sub("", line.rstrip("\r")).rstrip() for line in text.split("\n"))
        return tuple([line for line in cleaned if line][-lines:])

    def mirror(self, output: Callable[[bytes], None] | None) -> None:
        """Hand all that comes from now on to `output` as well; None ends that."""
        with self._lock:
            self._mirror = output

    def join(self) -> None:
        """Wait for the end: until the other side has closed."""
        self._thread.join()

    def _run(self) -> None:
        log = _BoundedLog(self._path)
        try:
            while piece := self._read():
                now = time.monotonic()
                log.write(piece)
                self._keep(piece)
                self._split(piece, now)
        finally:
            log.close()
            os.close(self._descriptor)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except ConnectionResetError:  # the other side was killed with input unread
            return b""

    def _keep(self, piece: bytes) -> None:
        with self._lock:
            self._pieces.append(piece)
            self._kept += len(piece)
            while self._kept - len(self._pieces[0]) >= TAIL_BYTES:
                self._kept -= len(self._pieces.popleft())
            mirror = self._mirror
        if mirror is not None:
            try:
                mirror(piece)
            except OSError:  # nobody looks any more; the machine need not care
                self.mirror(None)

    def _split(self, piece: bytes, now: float) -> None:
        if self._on_line is None:
            return
        *lines, partial = (self._partial + piece).split(b"\n")
        for line in lines:
            self._on_line(line[:MAX_LINE].rstrip(b"\r"), now)
        self._partial = partial[:MAX_LINE]


class _BoundedLog:
    """A file of at most half of `LOG_LIMIT`, and one with what was before.

    A full disk ends the record, and not the machine.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = path.open("wb", buffering=0)
        self._written = 0

    def write(self, piece: bytes) -> None:
        """Append."""
        try:
            if self._written + len(piece) > LOG_LIMIT // 2:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("wb", buffering=0)
                self._written = 0
            if self._file is not None:
                self._written += self._file.write(piece)
        except OSError:
            self.close()

    def close(self) -> None:
        """End the record."""
        if self._file is not None:
            self._file.close()
            self._file = None
