"""What a boot was doing when: what the host saw, and what the guest's systemd says of its units."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from bouvet.booting import READY_SECONDS
from bouvet.sandbox import Sandbox

MOST_UNITS = 200
"""As many units are told of: those that took longest."""

_PROPERTIES = (
    "Id",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "InactiveEnterTimestampMonotonic",
)
_SHOW = f"systemctl show --property={','.join(_PROPERTIES)} '*' 2>/dev/null"
_BLAME = "systemd-analyze time; systemd-analyze blame | head -n 12"
_LEFT_OUT = (".device", ".scope", ".slice")
"""Units that nothing is done for."""

_LONGEST_NAME = 255
"""Of a unit, as systemd.unit(5) has it."""

_MOST_DIGITS = 15
"""More microseconds than a machine is ever up."""


@dataclass(frozen=True, slots=True)
class TimingRow:
    """A milestone of a boot: seconds since the monitor was started, and of the guest's own clock."""

    name: str
    host: float | None
    guest: float | None = None


@dataclass(frozen=True, slots=True)
class UnitTiming:
    """How long systemd took to start a unit.

    Attributes:
        name: The unit's.
        start: When it began, in seconds of the guest's own clock.
        seconds: How long it took until the unit was active or, having done its work, inactive again.
    """

    name: str
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TimingReport:
    """A boot's milestones, and what systemd says of its units.

    Attributes:
        rows: The milestones.
        units: What `systemd-analyze` prints: the sum, and the slowest units.
        unit_timings: The units by their start; none where there is no systemd.
    """

    rows: tuple[TimingRow, ...]
    units: tuple[str, ...]
    unit_timings: tuple[UnitTiming, ...]


def timings_report(sandbox: Sandbox) -> TimingReport:
    """Return a boot's milestones; it waits until the guest's systemd has started everything."""
    state = sandbox.system_state(timeout=READY_SECONDS)
    # The console has told everything by now.
    timings = sandbox.timings
    rows = (
        TimingRow("kernel", timings.kernel, 0.0),
        TimingRow("initial file system", timings.init, timings.init_guest),
        TimingRow("image's init", timings.handover, timings.handover_guest),
        TimingRow("agent accepts", timings.agent),
        TimingRow("first answer", timings.answer),
    )
    up = time.monotonic() - sandbox.machine.started
    lines = sandbox.run(_BLAME, timeout=READY_SECONDS).stdout.splitlines()
    shown = sandbox.run(_SHOW, timeout=READY_SECONDS).stdout
    return TimingReport(rows, (f"the system is {state}", *lines), unit_timings(shown, up))


def unit_timings(shown: str, up: float) -> tuple[UnitTiming, ...]:
    """Return when units were started, by what `systemctl show` prints of them.

    Args:
        shown: A block of `PROPERTY=VALUE` lines for each unit, as a guest printed it: what makes no sense
            is left out.
        up: How many seconds ago the machine was started; nothing in it is older.
    """
    found = [timing for block in shown.split("\n\n") for timing in _unit(block) if timing.start <= up]
    longest = sorted(found, key=lambda timing: -timing.seconds)[:MOST_UNITS]
    return tuple(sorted(longest, key=lambda timing: (timing.start, timing.name)))


def _unit(block: str) -> Iterator[UnitTiming]:
    """Yield a unit's timing if it was started.

    The properties are org.freedesktop.systemd1(5)'s: microseconds of CLOCK_MONOTONIC, 0 for what has not
    been. A unit that is done and gone was never active, or no longer is.
    """
    values = dict(line.partition("=")[::2] for line in block.splitlines())
    name = values.get("Id", "")
    start, active, inactive = (_seconds(values.get(key, "")) for key in _PROPERTIES[1:])
    ends = [end for end in (active, inactive) if end >= start]
    if name and len(name) <= _LONGEST_NAME and not name.endswith(_LEFT_OUT) and start > 0 and ends:
        yield UnitTiming(name, start, min(ends) - start)


def _seconds(microseconds: str) -> float:
    valid = microseconds.isascii() and microseconds.isdigit() and len(microseconds) <= _MOST_DIGITS
    return int(microseconds) / 1e6 if valid else 0.0
