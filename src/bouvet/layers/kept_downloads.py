"""Files of known digests, downloaded several at a time and kept between builds.

    DOWNLOADS/NAME.SHA256

A file is received in the build's scratch space and moved to its place when its digest is right, so what
is kept was whole at that time; it is checked again before each use. What a broken build had already
received whole is there for the next one.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.download import download

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop

PARALLEL = 4
"""How many files are downloaded at the same time."""

_ASK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Published:
    """A file on a server.

    Attributes:
        name: What it is kept as: a file name without its version, so that the next version replaces it.
        url: Where it is.
        sha256: The digest that its publisher announced, in hexadecimal.
        limit: The most bytes it may have.
    """

    name: str
    url: str
    sha256: str
    limit: int


def obtain(files: Sequence[Published], workshop: Workshop) -> list[Path]:
    """Return the files' paths, in order, downloading those that are not kept.

    Other versions of the same files are removed afterwards.

    Raises:
        DownloadError: One cannot be had or is not what was announced; the other transfers are ended.
    """
    receiving = _Receiving(workshop)
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(receiving.obtain, file) for file in files]
        pending = set(futures)
        while pending:
            # A thread that waits for a result cannot be woken by an event, so it asks.
            done, pending = concurrent.futures.wait(
                pending, timeout=_ASK_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
            failure = next((error for future in done if (error := future.exception())), None)
            if failure is not None or workshop.cancelled.is_set():
                receiving.ended.set()
            if failure is not None:
                raise failure
    paths = [future.result() for future in futures]
    for path in paths:
        name = path.name.rpartition(".")[0]
        for other in workshop.downloads.iterdir():
            if other.name.rpartition(".")[0] == name and other != path:
                other.unlink(missing_ok=True)
    return paths


class _Receiving:
    """Downloads that share one report of progress, and their end."""

    def __init__(self, workshop: Workshop) -> None:
        self.ended = threading.Event()
        self._workshop = workshop
        self._lock = threading.Lock()
        self._received: dict[str, int] = {}

    def obtain(self, file: Published) -> Path:
        kept = self._workshop.downloads / f"{file.name}.{file.sha256.lower()}"
        if kept.is_file() and _sha256(kept) == file.sha256.lower():
            return kept
        partial = self._workshop.scratch / kept.name
        download(
            file.url,
            partial,
            sha256=file.sha256,
            limit=file.limit,
            cancelled=self.ended,
            progress=lambda received: self._report(file.name, received),
        )
        partial.replace(kept)
        return kept

    def _report(self, name: str, received: int) -> None:
        with self._lock:
            self._received[name] = received
            total = sum(self._received.values())
        self._workshop.progress(f"downloading, {total / (1 << 20):.0f} MiB so far", None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
