"""A layer that only remembers what was added, and the workshop that makers get."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bouvet.formats.tree import FileTree, Inode
from bouvet.layers.maker import Workshop

if TYPE_CHECKING:
    from bouvet.layers.writer import LayerWriter


@dataclass
class Recorder:
    """What a maker added, by path."""

    tree: FileTree = field(default_factory=dict)

    def add(self, path: bytes, inode: Inode) -> None:
        """Remember an entry."""
        assert not path.startswith(b"/")
        assert path not in self.tree, f"added twice: {path!r}"
        self.tree[path] = inode

    @property
    def writer(self) -> LayerWriter:
        """The recorder as what makers expect; none of those under test adds a tar."""
        return cast("LayerWriter", self)


@dataclass
class Bench:
    """A workshop in a temporary directory, and what was reported to it."""

    workshop: Workshop
    messages: list[tuple[str, float | None]]
    lines: list[str]


def bench(directory: Path, lower: FileTree | None = None) -> Bench:
    """Return a workshop below `directory`, over the layers `lower`."""
    messages: list[tuple[str, float | None]] = []
    lines: list[str] = []
    for name in ("scratch", "downloads"):
        (directory / name).mkdir(exist_ok=True)
    workshop = Workshop(
        scratch=directory / "scratch",
        downloads=directory / "downloads",
        lower=lower if lower is not None else {},
        progress=lambda message, fraction: messages.append((message, fraction)),
        output=lines.append,
    )
    return Bench(workshop, messages, lines)
