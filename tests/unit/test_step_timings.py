"""When steps ran, by their events."""

from __future__ import annotations

from bouvet.events import Event, StepFinished, StepProgress, StepStarted, StepWaits
from bouvet.pictures import step_bars
from bouvet.step_timings import StepRecorder, StepTiming
from bouvet.timeline import Bar, Kind

BUILD: list[tuple[float, Event]] = [
    (0.0, StepWaits("image", ("debian", "agent", "files"))),
    (0.0, StepWaits("files", ("debian",))),
    (0.5, StepStarted("debian", "not in the cache")),
    (0.6, StepFinished("agent", 0.1, "cached", cached=True)),
    (1.0, StepProgress("debian", "unpacking")),
    (4.5, StepFinished("debian", 3.9, "20 files")),
    (4.75, StepStarted("files", "changed")),
    (5.0, StepFinished("files", 0.25, "1 file")),
    (5.0, StepStarted("image", "not there")),
    (7.0, StepFinished("image", 2.0, "written")),
]


def recorded(events: list[tuple[float, Event]]) -> tuple[tuple[StepTiming, ...], list[Event]]:
    """Tell a recorder of events at their times; return what it made of them, and what it passed on."""
    now, passed = 100.0, list[Event]()
    recorder = StepRecorder(passed.append, clock=lambda: now)
    for at, event in events:
        now = 100.0 + at
        recorder(event)
    return recorder.timings(), passed


def test_steps_with_what_they_waited_for() -> None:
    timings, passed = recorded(BUILD)
    assert passed == [event for _, event in BUILD]
    found = {timing.step: timing for timing in timings}
    assert found["debian"] == StepTiming("debian", 0.5, 4.0, False, "20 files", 0.0, None)
    assert found["files"] == StepTiming("files", 4.75, 0.25, False, "1 file", 4.75, "debian")
    assert found["image"] == StepTiming("image", 5.0, 2.0, False, "written", 5.0, "files")
    assert found["agent"].cached
    assert found["agent"].waited_for is None
    assert [timing.start for timing in timings] == sorted(timing.start for timing in timings)


def test_what_has_not_ended_is_left_out_and_what_runs_twice_is_there_twice() -> None:
    timings, _ = recorded([*BUILD, (8.0, StepStarted("image", "renewed"))])
    assert len(timings) == 4
    timings, _ = recorded([*BUILD, *((at + 10, event) for at, event in BUILD[2:6])])
    assert [timing.step for timing in timings].count("debian") == 2


def test_the_bars_of_a_build() -> None:
    bars = {bar.name: bar for bar in step_bars(recorded(BUILD)[0])}
    assert bars["image"] == Bar("image", 5.0, 7.0, Kind.MADE, "written; waited for files", 0.0)
    assert bars["debian"] == Bar("debian", 0.5, 4.5, Kind.MADE, "20 files")
    assert bars["agent"].kind is Kind.CACHED
