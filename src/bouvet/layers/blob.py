"""A layer's bytes: one file in which each regular file's content lies aligned, in the order it came.

Zero blocks are left out, as holes of their file. Content starts at a multiple of 4096 bytes, so that an
image's data area is a layer's blob in a few large pieces. Each mebibyte has a CRC-32C, checked whenever
the mebibyte is read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import threading
from typing import IO, TYPE_CHECKING

import google_crc32c

from bouvet.errors import LayerCorrupt
from bouvet.formats.tree import BLOCK, Inode, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CHUNK = 1 << 20
"""Bytes that share a checksum."""

PIECE = 1 << 18
"""Bytes that are read and written at once: larger buffers are mapped and cleared anew each time."""

_MANY = 512
"""Pieces that are written at once, below Linux's IOV_MAX of 1024."""

_ZEROS = bytes(BLOCK)

# linux/fs.h: struct file_clone_range has the source's descriptor, offset and length, and the target's offset.
_CLONE_RANGE = struct.Struct("=qQQQ")
assert _CLONE_RANGE.size == 32
_FICLONERANGE = 0x4020940D
# ioctl_ficlonerange(2): other file systems, file systems without reflinks, larger blocks than ours.
_CANNOT_CLONE = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EPERM, errno.ETXTBSY}


class BlobSource:
    """A byte source over a committed blob: every chunk is checked before its bytes are used.

    Args:
        path: The blob's file.
        size: Its size in bytes.
        checksums: The CRC-32C of each chunk, in order.
        digest: The layer's digest, for the error that makes the pipeline evict it.

    Raises:
        LayerCorrupt: There is no such file.

    Attributes:
        identity: A digest of the size and all checksums.
    """

    def __init__(self, path: Path, size: int, checksums: Sequence[int], digest: str) -> None:
        self._path = path
        self._size = size
        self._checksums = checksums
        self.identity = hashlib.sha256(repr((size, list(checksums))).encode()).hexdigest()
        self._digest = digest
        self._lock = threading.Lock()
        self._kept = (-1, b"")
        # From the start, so that the blob can be read on when the layer is taken out of the cache.
        self._descriptor = self._open()

    def close(self) -> None:
        """Close the file. Nothing can be read any more."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`.

        Raises:
            LayerCorrupt: The bytes are missing or not what they were when they were committed.
        """
        pieces = []
        for index, start, stop in _chunks(offset, length):
            pieces.append(self._chunk(index)[start:stop])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        """Copy exactly `length` bytes from `offset` to `target_offset` of the descriptor `target`.

        Where the file system can, both then share the blocks on the disk. The rest of the last block may
        be copied as well; it is zeros.

        Raises:
            LayerCorrupt: The bytes are missing or not what they were when they were committed; some of
                them may have been copied.
            OSError: The target cannot be written.
        """
        shared = _clone(self._descriptor, offset, length, target, target_offset)
        for index, start, stop in _chunks(offset, length):
            if shared:
                self._check_chunk(index)
            elif stop - start == CHUNK:
                self._copy_chunk(index, target, target_offset)
            else:
                _write(target, memoryview(self._chunk(index))[start:stop], target_offset)
            target_offset += stop - start

    def _copy_chunk(self, index: int, target: int, target_offset: int) -> None:
        """Copy a whole chunk in pieces that stay in the processor's cache."""

        def copy(start: int, piece: bytes) -> None:
            _write(target, memoryview(piece), target_offset + start)

        self._check_chunk(index, copy)

    def _check_chunk(
        self, index: int, take: Callable[[int, bytes], None] = lambda _start, _piece: None
    ) -> None:
        """Check a chunk, and give its pieces away with where they start in it: before all were seen."""
        checksum = 0
        for start in range(0, CHUNK, PIECE):
            piece = os.pread(self._descriptor, PIECE, index * CHUNK + start)
            checksum = google_crc32c.extend(checksum, piece)
            take(start, piece)
        # What is missing makes another checksum, too.
        if checksum != self._checksums[index]:
            raise self._corrupt(f"chunk {index} of {self._path} is damaged")

    def _chunk(self, index: int) -> bytes:
        """Return a whole chunk, checked; the last one asked for is kept."""
        with self._lock:
            kept, chunk = self._kept
            if kept == index:
                return chunk
            size = min(CHUNK, self._size - index * CHUNK)
            chunk = os.pread(self._descriptor, size, index * CHUNK)
            if len(chunk) != size or google_crc32c.value(chunk) != self._checksums[index]:
                raise self._corrupt(f"chunk {index} of {self._path} is damaged")
            self._kept = (index, chunk)
            return chunk

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._corrupt(f"{self._path} is missing") from None
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return descriptor

    def _corrupt(self, what: str) -> LayerCorrupt:
        return LayerCorrupt(f"a cached layer is corrupt: {what}", digest=self._digest)


class BlobWriter:
    """Writes a blob from its start to its end.

    What was written can be read back while the blob grows: it is the source of the segments it returns.
    """

    identity: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._pending: list[bytes] = []
        self._flushed = 0
        self._size = 0
        self._checksum = 0
        self.checksums: list[int] = []

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    def take(self, path: Path, size: int, checksums: Sequence[int]) -> None:
        """Take a finished blob in place of this one, to which nothing was added.

        Args:
            path: Its file, on the same file system; it is moved.
            size: Its size in bytes.
            checksums: The CRC-32C of each of its chunks.
        """
        assert not self.size, "there is something in the blob already"
        path.replace(self._path)
        os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._flushed = self._size = size
        self.checksums = list(checksums)
        if size % CHUNK:
            self._checksum = self.checksums.pop()

    def add_stream(self, stream: IO[bytes], size: int) -> tuple[Segment, ...]:
        """Append a file's content read from a stream.

        Raises:
            EOFError: The stream ended before `size` bytes.
        """
        segments: list[Segment] = []
        offset = 0
        while offset < size:
            piece = stream.read(min(PIECE, size - offset))
            while len(piece) % BLOCK and offset + len(piece) < size:
                more = stream.read(min(BLOCK - len(piece) % BLOCK, size - offset - len(piece)))
                if not more:
                    break
                piece += more
            if not piece:
                raise EOFError(f"{size - offset} bytes are missing")
            self._add_piece(piece, offset, segments)
            offset += len(piece)
        return tuple(segments)

    def add_inode(self, inode: Inode) -> tuple[Segment, ...]:
        """Append a regular file's content, read from its own segments."""
        segments: list[Segment] = []
        for run in inode.segments:
            for start in range(0, run.length, CHUNK):
                length = min(CHUNK, run.length - start)
                piece = run.source.read(run.source_offset + start, length)
                self._add_piece(piece, run.file_offset + start, segments)
        return tuple(segments)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, both of a segment that was returned."""
        head = b""
        if offset < self._flushed:
            head = os.pread(self._descriptor, min(length, self._flushed - offset), offset)
        if len(head) == length:
            return head
        start = max(0, offset - self._flushed)
        return head + b"".join(self._pending)[start : start + length - len(head)]

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        """Write `length` bytes from `offset` to the descriptor `target` at `target_offset`."""
        _write(target, memoryview(self.read(offset, length)), target_offset)

    def finish(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        if self._size % CHUNK:
            self.checksums.append(self._checksum)
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _add_piece(self, piece: bytes, file_offset: int, segments: list[Segment]) -> None:
        """Append the runs of a piece that are not zero; only a file's last piece may end unaligned."""
        for start, stop in _data_runs(piece):
            source_offset = self._size
            self._append(piece[start:stop])
            last = segments[-1] if segments else None
            if (
                last is not None
                and last.file_offset + last.length == file_offset + start
                and last.source_offset + last.length == source_offset
            ):
                segments[-1] = Segment(last.file_offset, last.length + stop - start, self, last.source_offset)
            else:
                segments.append(Segment(file_offset + start, stop - start, self, source_offset))
            if padding := -self._size % BLOCK:
                self._append(_ZEROS[:padding])

    def _append(self, piece: bytes) -> None:
        while piece:
            part = piece[: CHUNK - self._size % CHUNK]
            self._checksum = google_crc32c.extend(self._checksum, part)
            self._size += len(part)
            if not self._size % CHUNK:
                self.checksums.append(self._checksum)
                self._checksum = 0
            self._pending.append(part)
            piece = piece[len(part) :]
        if self._size - self._flushed >= PIECE or len(self._pending) >= _MANY:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        written = os.pwritev(self._descriptor, self._pending, self._flushed)
        if self._flushed + written < self._size:
            rest = memoryview(b"".join(self._pending))[written:]
            _write(self._descriptor, rest, self._flushed + written)
        self._pending.clear()
        self._flushed = self._size


def _clone(source: int, offset: int, length: int, target: int, target_offset: int) -> bool:
    """Let a part of a file share another one's blocks; return whether the file system can do that."""
    whole = -(-length // BLOCK) * BLOCK
    try:
        fcntl.ioctl(target, _FICLONERANGE, _CLONE_RANGE.pack(source, offset, whole, target_offset))
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        return False
    return True


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _chunks(offset: int, length: int) -> list[tuple[int, int, int]]:
    """Return, for each chunk that a range touches, its index and the range's start and stop in it."""
    first, last = offset // CHUNK, (offset + length - 1) // CHUNK
    return [
        (index, max(0, offset - index * CHUNK), min(CHUNK, offset + length - index * CHUNK))
        for index in range(first, last + 1)
    ]


def _data_runs(piece: bytes) -> list[tuple[int, int]]:
    """Return the runs of blocks that are not all zeros, as start and stop."""
    # Most content has no zero block at all; one search in C says so. The last block may be a short one.
    rest = piece[len(piece) - len(piece) % BLOCK :]
    if _ZEROS not in piece and (not rest or rest.strip(b"\0")):
        return [(0, len(piece))]
    runs: list[tuple[int, int]] = []
    for start in range(0, len(piece), BLOCK):
        block = piece[start : start + BLOCK]
        if block == _ZEROS[: len(block)]:
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + len(block))
        else:
            runs.append((start, start + len(block)))
    return runs
