"""What every maker of a layer is given.

A maker is a module with `make(inputs, workshop, layer)`: it turns its step's inputs into entries of a
new layer. It owns nothing: the store commits what it wrote, or removes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bouvet.formats.tree import FileTree
from bouvet.layers.host_files import HostFiles


@dataclass(frozen=True, slots=True)
class LowerLayers:
    """The layers below a step, for makers that run commands over them.

    Attributes:
        trees: Their trees, lowest first.
        directories: Lays them out, where that was not done before; returns their directories, lowest first.
        architecture: That of their programs, which commands start: `x86_64` or `aarch64`.
        cache: Returns a directory that commands keep between builds, by its name.
        keep_failed: Moves the scratch directory of a command that failed to where the user finds it, and
            returns where that is. None: it is removed.
    """

    trees: Sequence[FileTree]
    directories: Callable[[], Sequence[Path]]
    architecture: str
    cache: Callable[[str], Path]
    keep_failed: Callable[[Path], Path] | None = None


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a maker works and how it reports.

    Attributes:
        scratch: An empty private directory on the cache's file system, removed afterwards.
        downloads: A directory of this kind of maker that is kept between builds.
        lower: The merged tree of the layers below, empty for the first.
        sources: What the plan's digests of the user's own content stand for.
        progress: Called with a message and a fraction between 0 and 1, None where it is not known.
        output: Called with each line that a tool prints.
        cancelled: Set when the work is being ended: waiting for a server ends then.
        below: The layers below one by one; None where no command can run over them.
    """

    scratch: Path
    downloads: Path
    lower: FileTree
    progress: Callable[[str, float | None], None]
    output: Callable[[str], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    below: LowerLayers | None = None
    sources: Mapping[str, HostFiles] = field(default_factory=dict)
