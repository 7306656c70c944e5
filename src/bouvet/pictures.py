"""What is drawn: a build's steps and a boot's milestones and units, as timelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bouvet.boot_timings import TimingReport
from bouvet.pipeline import BuildResult
from bouvet.step_timings import StepTiming
from bouvet.timeline import Bar, Kind, write_timeline


def draw_build(target: Path, name: str, result: BuildResult) -> None:
    """Write the timeline of a build's steps as SVG.

    Args:
        target: The file.
        name: The image's name.
        result: What the build came to.

    Raises:
        ImageError: It cannot be written.
    """
    write_timeline(target, f"{name}: built in {result.seconds:.2f} s", step_bars(result.timings))


def draw_boot(target: Path, name: str, report: TimingReport) -> None:
    """Write the timeline of a boot as SVG: the monitor, the kernel, the agent, and systemd's units.

    Args:
        target: The file.
        name: The image's name.
        report: What was seen.

    Raises:
        ImageError: It cannot be written.
    """
    answer = next((row.host for row in report.rows if row.name == "first answer"), None)
    told = "" if answer is None else f": the first answer after {answer:.3f} s"
    write_timeline(target, f"{name}{told}", list(boot_bars(report)))


def step_bars(timings: tuple[StepTiming, ...]) -> list[Bar]:
    """Return a bar for each step of a build."""
    return [
        Bar(
            timing.step,
            timing.start,
            timing.end,
            Kind.CACHED if timing.cached else Kind.MADE,
            timing.outcome + (f"; waited for {timing.waited_for}" if timing.waited_for else ""),
            timing.start - timing.waited if timing.waited_for else None,
        )
        for timing in timings
    ]


def boot_bars(report: TimingReport) -> Iterator[Bar]:
    """Yield a bar for what led to each milestone that was seen, and for each unit that was started.

    The units' times are the guest's; its clock begins with its kernel.
    """
    seen = [(row.host, row.name) for row in report.rows if row.host is not None]
    before = 0.0
    # The agent may answer before the image's own init begins.
    for host, name in sorted(seen):
        yield Bar(f"until: {name}", before, host, Kind.MILESTONE)
        before = host
    kernel = next((row.host for row in report.rows if row.name == "kernel"), None)
    if kernel is None:
        return
    for unit in report.unit_timings:
        start = kernel + unit.start
        yield Bar(unit.name, start, start + unit.seconds, Kind.UNIT)
