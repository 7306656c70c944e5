"""What every maker of a layer is given.

A maker is a module with `make(inputs, workshop, layer)`: it turns its step's inputs into entries of a
new layer. It owns nothing: the store commits what it wrote, or removes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bouvet.formats.tree import FileTree


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a maker works and how it reports.

    Attributes:
        scratch: An empty private directory on the cache's file system, removed afterwards.
        downloads: A directory of this kind of maker that is kept between builds.
        lower: The merged tree of the layers below, empty for the first.
        progress: Called with a message and a fraction between 0 and 1, None where it is not known.
        output: Called with each line that a tool prints.
        cancelled: Set when the work is being ended: waiting for a server ends then.
    """

    scratch: Path
    downloads: Path
    lower: FileTree
    progress: Callable[[str, float | None], None]
    output: Callable[[str], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
