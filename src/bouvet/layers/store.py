"""The cache of layers, addressed by what they were made from.

    <root>/                    $XDG_CACHE_HOME/bouvet, or ~/.cache/bouvet
      layers/<digest>/         a committed layer (`layer`); never changed afterwards
      locks/<digest>           held shared by who reads the layer, exclusively by who prunes it
      locks/<digest>.making    held by who makes the layer; never waited for with anything to wait for
      unpacked/<digest>/       the layer laid out as a directory (`unpacked`), removed with it
      unpacked/<digest>.<id>/  the same of a layer that was evicted while somebody used it
      downloads/<kind>/        what a kind of maker keeps between builds
      caches/<name>/           what commands that run over layers keep between builds
      failed/<step>/           what a failed command of a step left, for its user to look at
      locks/<step>.failed      held by who looks at it
      work/<name>/             a running process's scratch space; its lock is `work/<name>.lock`

A layer is made in `work` and moved to its place in one rename, so a layer that exists is complete.
What a killed process left in `work` is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bouvet.errors import CacheError
from bouvet.layers.layer import SEAL, Layer, load_layer, read_seal, seal_layer
from bouvet.layers.namespaces import remove_tree
from bouvet.layers.writer import LayerWriter

_ASK_SECONDS = 0.05

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the cache's listing: sizes in bytes on disk, times in seconds since 1970."""

    digest: str
    name: str
    size: int
    created: float
    used: float


def default_root() -> Path:
    """Return the user's cache directory for bouvet, by the XDG Base Directory Specification 0.8."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "bouvet"


class Store:
    """The cache, opened by one process. A context manager: at its end all locks are released.

    Attributes:
        root: Its directory.
        cancelled: Set when the work is being ended.

    Raises:
        CacheError: The directory cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held = contextlib.ExitStack()
        self.cancelled = threading.Event()
        try:
            for name in ("layers", "locks", "unpacked", "downloads", "caches", "failed", "work"):
                (root / name).mkdir(parents=True, exist_ok=True)
            # One at a time, or a sweep could take a directory whose lock is not yet held.
            with _locked(root / "work.lock", fcntl.LOCK_EX):
                self._sweep()
                self._work = Path(tempfile.mkdtemp(dir=root / "work"))
                self._held.enter_context(_locked(_lock_path(self._work), fcntl.LOCK_EX))
        except OSError as error:
            raise _cannot_write(root, error) from error
        self._held.callback(_remove_work, self._work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def downloads(self, kind: str) -> Path:
        """Return the directory in which a kind of maker keeps its downloads."""
        directory = self.root / "downloads" / kind
        directory.mkdir(exist_ok=True)
        return directory

    def cache(self, name: str) -> Path:
        """Return a directory in which commands that run over layers keep things, by its name."""
        directory = self.root / "caches" / name
        directory.mkdir(exist_ok=True)
        return directory

    def keep(self, directory: Path, step: str) -> Path:
        """Move what a step's failed command left to where it stays.

        It takes the place of an earlier one's, unless somebody is in there.
        """
        for number in itertools.count(1):
            place = self.root / "failed" / (step if number == 1 else f"{step}.{number}")
            with contextlib.suppress(BlockingIOError), self._entered(place):
                self._bury(place)
                directory.rename(place)
                break
        return place

    def hold_failed(self, place: Path, digests: Iterable[str]) -> None:
        """Let nobody remove what a failed command left, or the layers below, until the store is closed.

        Args:
            place: As `keep` returned it.
            digests: The layers'.

        Raises:
            CacheError: Somebody is in there already.
        """
        try:
            self._held.enter_context(self._entered(place))
        except BlockingIOError as error:
            raise CacheError(f"another process is in {place}") from error
        for digest in digests:
            self._held.enter_context(_locked(self.root / "locks" / digest, fcntl.LOCK_SH))

    def scratch(self) -> Path:
        """Return a new empty directory that is removed with the store."""
        return Path(tempfile.mkdtemp(dir=self._work))

    def has(self, digest: str) -> bool:
        """Return whether the layer is there, without reading it."""
        return (self.root / "layers" / digest / SEAL).is_file()

    def get(self, digest: str) -> Layer | None:
        """Return a layer, or None if it is not there. It cannot be removed until the store is closed.

        Raises:
            LayerCorrupt: Its index is not what it was when it was committed.
        """
        if not self.has(digest):
            return None
        self._held.enter_context(_locked(self.root / "locks" / digest, fcntl.LOCK_SH))
        if not self.has(digest):  # removed while we waited
            return None
        layer, source = load_layer(self.layer_directory(digest), digest)
        self._held.callback(source.close)
        with contextlib.suppress(OSError):
            os.utime(self.root / "layers" / digest / SEAL)
        return layer

    def make(
        self, name: str, digest: str, fill: Callable[[LayerWriter], None], waiting: Callable[[], None]
    ) -> Layer:
        """Make a layer and commit it, unless another process has made it meanwhile.

        Args:
            name: The step's name.
            digest: What the layer is addressed by.
            fill: Adds the layer's entries.
            waiting: Called if another process is making the same layer, before waiting for it.

        Raises:
            CacheError: The cache cannot be written, for example for want of space.
        """
        try:
            # Not the readers' lock: two builds that read each other's layers would wait for ever.
            with self.exclusive(f"{digest}.making", waiting):
                if not self.has(digest):
                    self._commit(name, digest, fill)
        except OSError as error:
            if error.errno in _CANNOT_WRITE:
                raise _cannot_write(self.root, error) from error
            raise
        layer = self.get(digest)
        if layer is None:
            raise CacheError(f"the layer {name} was removed from the cache while it was used")
        return layer

    def evict(self, digest: str) -> None:
        """Take a layer out of the cache.

        Who uses it goes on: its blob is open, and where it is laid out it stays until nobody holds it.
        """
        self._bury(self.root / "layers" / digest)
        self._retire(digest)

    def entries(self) -> list[Entry]:
        """Return the committed layers, the last used first."""
        found = []
        for directory in (self.root / "layers").iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError):
                seal = json.loads((directory / SEAL).read_bytes())
                size = sum(path.stat().st_blocks * 512 for path in directory.iterdir())
                used = (directory / SEAL).stat().st_mtime
                found.append(Entry(directory.name, seal["name"], size, seal["created"], used))
        return sorted(found, key=lambda entry: -entry.used)

    def prune(self, unused_for: float) -> list[Entry]:
        """Remove the layers that were not used for so many seconds, and return them.

        Layers that are in use are kept.
        """
        limit = time.time() - unused_for
        removed = []
        for entry in self.entries():
            if entry.used > limit:
                continue
            with (
                contextlib.suppress(BlockingIOError),
                _locked(self.root / "locks" / entry.digest, fcntl.LOCK_EX | fcntl.LOCK_NB),
            ):
                self._remove(entry.digest)
                removed.append(entry)
        for directory in (self.root / "failed").iterdir():
            if directory.stat().st_mtime <= limit:
                with contextlib.suppress(BlockingIOError), self._entered(directory):
                    self._bury(directory)
        return removed

    def prune_downloads(self) -> int:
        """Remove the kept downloads; return how many bytes that were."""
        directory = self.root / "downloads"
        freed = sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        return freed

    def cancel(self) -> None:
        """Let no thread wait any longer for what another process makes: the work is being ended."""
        self.cancelled.set()

    @contextlib.contextmanager
    def exclusive(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a lock during the block, once nobody else does.

        Args:
            name: The lock's, in `locks`.
            waiting: Called if another process holds it, before waiting.

        Raises:
            CacheError: The work was ended meanwhile.
        """
        path = self.root / "locks" / name
        told = False
        while True:
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
                except BlockingIOError:
                    if not told:
                        waiting()
                    told = True
                else:
                    yield
                    return
            # A thread that waits for a file lock cannot be woken, so it asks again and again.
            if self.cancelled.wait(_ASK_SECONDS):
                raise CacheError("waiting for another build was ended")

    def layer_directory(self, digest: str) -> Path:
        """Return where a committed layer's files are."""
        return self.root / "layers" / digest

    def seal(self, digest: str) -> dict[str, Any]:
        """Return a committed layer's seal.

        Raises:
            LayerCorrupt: It cannot be read.
        """
        return read_seal(self.layer_directory(digest), digest)

    def replace_unpacked(self, digest: str, directory: Path) -> None:
        """Move a laid out layer to its place; one that was there is removed once nobody uses it."""
        self._retire(digest)
        directory.rename(self.root / "unpacked" / digest)

    def _commit(self, name: str, digest: str, fill: Callable[[LayerWriter], None]) -> None:
        target = self.root / "layers" / digest
        if target.exists():  # without a seal: never committed by this code
            self._remove(digest)
        making = self.scratch()
        writer = LayerWriter(making)
        try:
            fill(writer)
            seal_layer(making, name, writer)
        finally:
            writer.close()
        making.rename(target)

    def _entered(self, failed: Path) -> contextlib.AbstractContextManager[int]:
        return _locked(self.root / "locks" / f"{failed.name}.failed", fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _remove(self, digest: str) -> None:
        """Remove a layer, laid out or not."""
        self._bury(self.root / "unpacked" / digest)
        self._bury(self.root / "layers" / digest)

    def _retire(self, digest: str) -> None:
        """Take a laid out layer out of its place, and delete it unless somebody may be using it."""
        place = self.root / "unpacked" / digest
        try:
            with _locked(self.root / "locks" / digest, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._bury(place)
        except BlockingIOError:
            with contextlib.suppress(FileNotFoundError):
                place.rename(place.with_suffix(f".{secrets.token_hex(8)}"))

    def _bury(self, directory: Path) -> None:
        """Take a directory out of its place in one step, then delete it."""
        grave = self.scratch()
        with contextlib.suppress(FileNotFoundError):
            directory.rename(grave / directory.name)
        remove_tree(grave)

    def _sweep(self) -> None:
        """Remove what processes left that were killed, and what was evicted while others used it."""
        for lock in (self.root / "work").glob("*.lock"):
            with (
                contextlib.suppress(OSError),
                _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB),
            ):
                _remove_work(lock.with_suffix(""))
        for evicted in (self.root / "unpacked").glob("*.*"):
            with (
                contextlib.suppress(BlockingIOError),
                _locked(self.root / "locks" / evicted.stem, fcntl.LOCK_EX | fcntl.LOCK_NB),
            ):
                remove_tree(evicted)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[int]:
    """Hold a file lock (flock(2)) during the block. The kernel releases it when the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_path(work: Path) -> Path:
    return work.with_name(work.name + ".lock")


def _remove_work(work: Path) -> None:
    remove_tree(work)
    if not work.exists():
        _lock_path(work).unlink(missing_ok=True)


def _cannot_write(root: Path, error: OSError) -> CacheError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return CacheError(
        f"cannot write {error.filename or 'the cache'}: {error.strerror}",
        hint="make room ('bouvet cache prune' removes old layers), or set XDG_CACHE_HOME to another disk"
        if full
        else f"set XDG_CACHE_HOME to a directory that you may write (the cache is {root})",
    )
