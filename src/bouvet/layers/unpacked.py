"""Layers laid out as directories, in the cache beside them, for the steps that run commands over them.

    <root>/unpacked/<digest>/
      tree/                    the layer's entries, with their owners (an ordinary user's subordinate ids)
      seal.json                what it was made from, and its survey: written last

A layer is laid out when a command first needs it, and removed with it. Before each build that uses it,
its survey is compared with the sealed one: any change since, by whomever, makes it be laid out anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bouvet.errors import CacheError, LayerCorrupt, LayerError
from bouvet.layers import namespaces, unpacking

if TYPE_CHECKING:
    from bouvet.layers.layer import Layer
    from bouvet.layers.store import Store

_SEAL = "seal.json"
_TREE = "tree"


class UnpackedLayers:
    """The laid out layers of one build. Steps of several threads may ask at the same time.

    Args:
        store: The cache, which holds the layers' locks.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ready: set[str] = set()
        self._lock = threading.Lock()

    def directories(self, layers: Sequence[Layer], waiting: Callable[[], None]) -> list[Path]:
        """Return the directories with the layers' trees, laid out now where that was not done before.

        Args:
            layers: Layers that the store holds.
            waiting: Called if another process lays the same out, before waiting for it.

        Raises:
            LayerCorrupt: A layer is not what it was when it was committed.
            LayerError: The host does not let the user make them.
            CacheError: The cache cannot be written.
        """
        with self._lock:
            missing = [layer.digest for layer in layers if layer.digest not in self._ready]
            with contextlib.ExitStack() as held:
                # In one order, or two builds could wait for each other.
                for digest in sorted(missing):
                    held.enter_context(self._store.exclusive(f"{digest}.unpacking", waiting))
                self._make_ready(missing)
            return [self._place(layer.digest) / _TREE for layer in layers]

    def _make_ready(self, digests: Sequence[str]) -> None:
        sealed = {digest: seal for digest in digests if (seal := self._seal(digest)) is not None}
        if sealed:
            pairs = [(unpacking.EXISTING, self._place(digest) / _TREE) for digest in sealed]
            found = dict(zip(sealed, _surveys(pairs), strict=True))
            sealed = {digest: seal for digest, seal in sealed.items() if seal["survey"] == found[digest]}
        wanted = [digest for digest in digests if digest not in sealed]
        if wanted:
            self._lay_out(wanted)
        self._ready.update(digests)

    def _lay_out(self, digests: Sequence[str]) -> None:
        work = self._store.scratch()
        pairs = []
        for digest in digests:
            (work / digest / _TREE).mkdir(parents=True)
            pairs.append((str(self._store.layer_directory(digest)), work / digest / _TREE))
        for digest, survey in zip(digests, _surveys(pairs), strict=True):
            seal = {"layer": self._store.seal(digest)["index"], "ids": _id_maps(), "survey": survey}
            (work / digest / _SEAL).write_text(json.dumps(seal) + "\n")
            self._store.replace_unpacked(digest, work / digest)

    def _place(self, digest: str) -> Path:
        return self._store.root / "unpacked" / digest

    def _seal(self, digest: str) -> dict[str, Any] | None:
        """Return the seal of what is there, None if it is not there or was made from something else."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            seal: dict[str, Any] = json.loads((self._place(digest) / _SEAL).read_bytes())
            if seal["layer"] == self._store.seal(digest)["index"] and seal["ids"] == _id_maps():
                return seal
        return None


def _id_maps() -> list[str]:
    """Return what decides which owners on the disk stand for the layer's: the user, its subordinate ids."""
    if os.geteuid() == 0:
        return [Path("/proc/self/uid_map").read_text()]
    maps = [str(os.geteuid())]
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        with contextlib.suppress(OSError):
            maps.append(path.read_text())
    return maps


def _surveys(pairs: Sequence[tuple[str, Path]]) -> list[dict[str, int]]:
    """Have layers laid out or surveyed; return the surveys."""
    arguments = [str(part) for pair in pairs for part in pair]
    answer = json.loads(namespaces.run_module(unpacking.__name__, arguments))
    if "corrupt" in answer:
        raise LayerCorrupt(answer["error"], digest=answer["corrupt"])
    if "errno" in answer:
        full = answer["errno"] in {errno.ENOSPC, errno.EDQUOT}
        raise CacheError(
            f"a layer cannot be laid out in the cache: {answer['error']}",
            hint="make room ('bouvet cache prune' removes old layers)" if full else None,
        )
    if "error" in answer:
        raise LayerError(answer["error"])
    surveys: list[dict[str, int]] = answer["surveys"]
    return surveys
