"""A container image's layer as a verified stream of tar.

A layer's blob is a tar, or one compressed by gzip or zstd (the OCI image specification 1.1, layer.md). The
stream is read once; its end tells whether both digests were right, that of the blob and that of what is
in it. A blob is hostile until then, and what it expands to is bounded.

zstd is read by the library `zstandard`, not by Debian's program: it bounds the window that a stream may
ask for, and needs neither a process nor a package on the host.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from bouvet.errors import FormatError

MAXIMUM_SIZE = 64 << 30
"""Bytes that a layer may expand to."""

FREE_EXPANSION = 256 << 20
"""Bytes that any blob may expand to, however small it is: a layer can be one large empty file."""

MAXIMUM_RATIO = 250
"""How many times its size a blob may expand to beyond that. gzip's limit is 1032, of zeros alone."""

_MAXIMUM_WINDOW = 128 << 20  # what RFC 8878, section 3.1.1.1.2, lets decoders stop at, with room
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 20


class _Part(io.RawIOBase):
    """A part of a file, read once from its start; it knows the digest of what was read."""

    def __init__(self, file: IO[bytes], size: int, algorithm: str) -> None:
        self._file = file
        self.left = size
        self.digest = hashlib.new(algorithm)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        """Read the next bytes."""
        view = memoryview(buffer)[: self.left]
        count = self._file.readinto(view) if view else 0  # type: ignore[attr-defined]  # a raw file's
        self.digest.update(view[:count])
        self.left -= count
        return int(count)


class LayerStream(io.RawIOBase):
    """What a blob expands to, with its digest and its bounds. Raises FormatError past them."""

    def __init__(self, expanded: IO[bytes], limit: int, algorithm: str) -> None:
        self._expanded = expanded
        self._limit = limit
        self.count = 0
        self.digest = hashlib.new(algorithm)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most a mebibyte.

        Raises:
            FormatError: The blob is damaged, or expands beyond its bounds.
        """
        try:
            piece = self._expanded.read(_PIECE if size < 0 else min(size, _PIECE))
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise FormatError(f"the layer's compression is damaged: {error}") from error
        self.count += len(piece)
        if self.count > self._limit:
            raise FormatError(
                f"the layer expands to more than {self._limit} bytes",
                hint="a layer may be a bomb: remake the image with plain layers if it is not",
            )
        self.digest.update(piece)
        return piece


@contextmanager
def open_layer(path: Path, offset: int, size: int, digest: str | None, diff_id: str) -> Iterator[LayerStream]:
    """Open a blob, and verify at the block's end that it was all what its digests say.

    Args:
        path: The file that has it.
        offset: Where it starts in there, in bytes.
        size: Its length in bytes.
        digest: The blob's own digest, None where nothing tells it.
        diff_id: The digest of what is in it.

    Raises:
        FormatError: It is damaged, expands beyond its bounds, or is not what a digest says.
        OSError: The file cannot be read.
    """
    algorithm, _, expected = (digest or "sha256:").partition(":")
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        part = _Part(file, size, algorithm)
        limit = min(MAXIMUM_SIZE, FREE_EXPANSION + MAXIMUM_RATIO * size)
        blob = io.BufferedReader(part, _PIECE)
        with _expanded(blob) as expanded:
            stream = LayerStream(expanded, limit, diff_id.partition(":")[0])
            yield stream
            while stream.read(_PIECE):  # what follows the archive's end is part of it
                pass
        while blob.read(_PIECE):  # what follows the compressed stream is part of the blob
            pass
    if part.left:
        raise FormatError(f"the layer's blob is {part.left} bytes shorter than the image says")
    if expected and part.digest.hexdigest() != expected:
        raise FormatError(f"the layer's blob is not what its digest {digest} says")
    if stream.digest.hexdigest() != diff_id.partition(":")[2]:
        raise FormatError(f"the layer's content is not what its digest {diff_id} says")


@contextmanager
def _expanded(blob: io.BufferedReader[_Part]) -> Iterator[IO[bytes]]:
    """Yield what a blob expands to. What it is compressed by, its first bytes tell."""
    head = blob.peek(4)[:4]
    if head.startswith(_GZIP):
        with gzip.GzipFile(fileobj=blob, mode="rb") as stream:
            yield stream  # type: ignore[misc]  # typeshed: no IO[bytes]
    elif head == _ZSTD:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAXIMUM_WINDOW)
        with decompressor.stream_reader(blob, read_across_frames=True, closefd=False) as reader:
            yield reader
    else:
        yield blob
