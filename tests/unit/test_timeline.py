"""Timelines: what is drawn where."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bouvet.errors import ImageError
from bouvet.timeline import CHART_WIDTH, ROW_HEIGHT, Bar, Kind, timeline_svg, write_timeline

SVG = "{http://www.w3.org/2000/svg}"

BARS = [
    Bar("agent", 0.0, 1.0, Kind.MADE),
    Bar("debian", 0.5, 8.0, Kind.CACHED, "cached"),
    Bar("image", 8.0, 10.0, Kind.MADE, "2 files", waiting_since=0.25),
]


def rectangles(root: ET.Element, name: str) -> list[dict[str, float]]:
    found = [shape.attrib for shape in root.iter(f"{SVG}rect") if shape.get("class") == name]
    return [{key: float(shape[key]) for key in ("x", "y", "width", "height")} for shape in found]


def test_bars_lie_where_the_times_say() -> None:
    root = ET.fromstring(timeline_svg("devbox", BARS))
    bars = rectangles(root, "bar")
    left = bars[0]["x"]
    for bar, drawn in zip(BARS, bars, strict=True):
        assert drawn["x"] == pytest.approx(left + bar.start * CHART_WIDTH / 10, abs=0.01)
        assert drawn["width"] == pytest.approx((bar.end - bar.start) * CHART_WIDTH / 10, abs=0.01)
    assert all(lower["y"] - upper["y"] == ROW_HEIGHT for upper, lower in itertools.pairwise(bars))


def test_a_thin_bar_shows_what_waited() -> None:
    (wait,) = rectangles(ET.fromstring(timeline_svg("devbox", BARS)), "wait")
    agent, _, image = rectangles(ET.fromstring(timeline_svg("devbox", BARS)), "bar")
    assert wait["x"] == pytest.approx(agent["x"] + 0.25 * CHART_WIDTH / 10, abs=0.01)
    assert wait["x"] + wait["width"] == pytest.approx(image["x"], abs=0.01)
    assert image["y"] < wait["y"] < image["y"] + image["height"]


def test_everything_lies_in_the_picture() -> None:
    root = ET.fromstring(timeline_svg("devbox", [*BARS, Bar("n" * 400, 0.0, 9.0, Kind.UNIT)]))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for shape in [*rectangles(root, "bar"), *rectangles(root, "wait")]:
        assert shape["x"] >= 0
        assert shape["x"] + shape["width"] < width
        assert shape["y"] + shape["height"] < height


def test_the_axis_has_round_times() -> None:
    texts = [text.text for text in ET.fromstring(timeline_svg("devbox", BARS)).iter(f"{SVG}text")]
    assert [text for text in texts if text in {f"{n} s" for n in range(11)}] == [f"{n} s" for n in range(11)]
    assert {"agent", "debian", "image", "7.500 s", "made now", "taken from the cache", "waiting"} <= set(
        texts
    )
    assert Kind.UNIT.meaning not in texts


@pytest.mark.parametrize("name", ["<&>\"'", "\x00\x1b[31m", "\ud800", "\ufffe", "\U0001f40c"])
def test_any_name_gives_valid_xml(name: str) -> None:
    svg = timeline_svg(name, [Bar(name, 0.0, 1.0, Kind.UNIT, name)])
    root = ET.fromstring(svg.encode())
    assert "".join(c if c.isprintable() else "?" for c in name) in {t.text for t in root.iter(f"{SVG}text")}


@pytest.mark.parametrize("last", [0.0, 1e-6, 0.003, 0.9999, 59.0, 1e6])
def test_any_length_has_few_ticks_within(last: float) -> None:
    root = ET.fromstring(timeline_svg("", [Bar("x", 0.0, last, Kind.MADE)]))
    ticks = [float(line.attrib["x1"]) for line in root.iter(f"{SVG}line")]
    (bar,) = rectangles(root, "bar")
    assert len(ticks) == 0 if last == 0 else 2 <= len(ticks) <= 11
    assert all(bar["x"] <= tick <= bar["x"] + CHART_WIDTH + 0.01 for tick in ticks)


def test_equal_bars_give_an_equal_picture_and_none_an_empty_one() -> None:
    assert timeline_svg("devbox", BARS) == timeline_svg("devbox", list(BARS))
    assert rectangles(ET.fromstring(timeline_svg("devbox", [])), "bar") == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none/x\.svg"):
        write_timeline(tmp_path / "none" / "x.svg", "", BARS)
