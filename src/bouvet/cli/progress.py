"""Renders progress events on standard error: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import click

from bouvet.events import Event, Listener, Note, StepFinished, StepProgress, StepStarted, ToolOutput, ignore


@contextlib.contextmanager
def progress(*, quiet: bool = False, verbose: bool = False) -> Iterator[Listener]:
    """Yield a listener that shows what happens during the block.

    Args:
        quiet: Show nothing.
        verbose: Show the tools' own output too, and so no live lines.
    """
    if quiet:
        yield ignore
    elif verbose or not sys.stderr.isatty():
        yield _Plain(verbose=verbose)
    else:
        with _live() as listener:
            yield listener


class _Plain:
    """A line for each start, end and note."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        match event:
            case StepStarted(step, reason):
                line = f"{step}: started ({reason})"
            case StepFinished():
                line = finished_line(event)
            case Note(message):
                line = message
            case ToolOutput(step, text) if self._verbose:
                line = f"{step} | {printable(text)}"
            case _:
                return
        with self._lock:
            click.echo(line, err=True)


def finished_line(event: StepFinished) -> str:
    """Return the line for a step that is done."""
    done = "" if event.cached else f"done in {event.seconds:.1f} s: "
    return f"{event.step}: {done}{event.outcome}"


def printable(text: str) -> str:
    """Return text without control characters, which a tool or a guest could play tricks with."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


@dataclass
class _Running:
    started: float = field(default_factory=time.monotonic)
    message: str = ""
    fraction: float | None = None


@contextlib.contextmanager
def _live() -> Iterator[Listener]:
    # rich is imported where a terminal is there to be drawn on
    from rich.console import Console, Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)
    running: dict[str, _Running] = {}
    lock = threading.Lock()

    class Lines:
        """The steps that run; drawn anew a few times a second, so that their times run."""

        def __rich__(self) -> Group:
            with lock:
                rows = [(name, row.started, row.message, row.fraction) for name, row in running.items()]
            table = Table.grid(padding=(0, 1))
            for name, started, message, fraction in rows:
                bar = ProgressBar(total=1.0, completed=fraction, width=20) if fraction is not None else ""
                seconds = f"{time.monotonic() - started:6.1f} s"
                table.add_row(Text(name, style="bold"), seconds, bar, Text(printable(message), no_wrap=True))
            return Group(table)

    with Live(Lines(), console=console, refresh_per_second=8, transient=True):

        def listener(event: Event) -> None:
            match event:
                case StepStarted(step, reason):
                    with lock:
                        running[step] = _Running(message=reason)
                case StepProgress(step, message, fraction):
                    with lock:
                        row = running.setdefault(step, _Running())
                        row.message, row.fraction = message, fraction
                case StepFinished():
                    with lock:
                        running.pop(event.step, None)
                    console.print(Text(finished_line(event)))
                case Note(message):
                    console.print(Text(message))

        yield listener
