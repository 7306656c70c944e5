"""The workshop that makers get, in a temporary directory, and what was reported to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bouvet.formats.tree import FileTree
from bouvet.layers.maker import Workshop


@dataclass
class Bench:
    """A workshop, its reports of progress, and the tools' lines."""

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
