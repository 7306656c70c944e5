"""What a guest's systemd says of its units, and how a boot is drawn."""

from __future__ import annotations

import pytest

from bouvet.boot_timings import MOST_UNITS, TimingReport, TimingRow, UnitTiming, unit_timings
from bouvet.pictures import boot_bars
from bouvet.timeline import Bar, Kind


def block(name: str, start: object, active: object = 0, inactive: object = 0) -> str:
    """Return what `systemctl show` prints of a unit."""
    return (
        f"Id={name}\nInactiveExitTimestampMonotonic={start}\n"
        f"ActiveEnterTimestampMonotonic={active}\nInactiveEnterTimestampMonotonic={inactive}\n"
    )


def test_units_by_their_start() -> None:
    shown = "\n".join(
        [
            block("late.service", 2_000_000, 2_500_000),
            block("oneshot.service", 1_000_000, 0, 1_250_000),
            block("restarted.service", 1_500_000, 1_600_000, 1_400_000),
            block("stopped.service", 1_100_000, 1_200_000, 1_900_000),
            block("never.service", 0),
            block("hanging.service", 1_000_000),
            block("dev-vda.device", 1_000_000, 1_000_000),
        ]
    )
    assert [(one.name, one.start, round(one.seconds, 6)) for one in unit_timings(shown, 10.0)] == [
        ("oneshot.service", 1.0, 0.25),
        ("stopped.service", 1.1, 0.1),
        ("restarted.service", 1.5, 0.1),
        ("late.service", 2.0, 0.5),
    ]


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "nonsense\n\n=\n\nId=\n",
        block("a.service", "-5", 1),
        block("a.service", "9" * 5000, "9" * 5000),
        block("a.service", "٣", "٤"),
        block("x" * 300, 1_000_000, 2_000_000),
        block("from-the-future.service", 20_000_000, 21_000_000),
        block("a.service", 1_000_000, 2_000_000).replace("Id=a.service\n", ""),
    ],
)
def test_what_makes_no_sense_is_left_out(shown: str) -> None:
    assert unit_timings(shown, 10.0) == ()


def test_only_the_longest_of_many_units_are_told() -> None:
    shown = "\n".join(block(f"{n}.service", 1_000_000, 1_000_000 + n) for n in range(2 * MOST_UNITS))
    found = unit_timings(shown, 10.0)
    assert {one.name for one in found} == {f"{n}.service" for n in range(MOST_UNITS, 2 * MOST_UNITS)}


def test_the_bars_of_a_boot_are_on_the_hosts_clock() -> None:
    rows = (
        TimingRow("kernel", 0.5, 0.0),
        TimingRow("initial file system", None, 1.0),
        TimingRow("image's init", 2.0, 1.5),
        TimingRow("first answer", 1.75),
    )
    report = TimingReport(rows, (), (UnitTiming("ssh.service", 3.0, 0.25),))
    assert list(boot_bars(report)) == [
        Bar("until: kernel", 0.0, 0.5, Kind.MILESTONE),
        Bar("until: first answer", 0.5, 1.75, Kind.MILESTONE),
        Bar("until: image's init", 1.75, 2.0, Kind.MILESTONE),
        Bar("ssh.service", 3.5, 3.75, Kind.UNIT),
    ]


def test_without_the_kernels_begin_there_are_no_units_bars() -> None:
    report = TimingReport((TimingRow("first answer", 2.0),), (), (UnitTiming("ssh.service", 3.0, 0.25),))
    assert [bar.name for bar in boot_bars(report)] == ["until: first answer"]
