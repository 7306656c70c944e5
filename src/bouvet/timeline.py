"""Timelines as pictures: SVG 1.1 (W3C), made of nothing but the times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from xml.etree import ElementTree as ET

from bouvet.errors import ImageError

CHART_WIDTH = 900
"""Pixels from the first moment to the last."""

ROW_HEIGHT = 22
_BAR_HEIGHT = 14
_TOP = 64
_TEXT_WIDTH = 96
_LETTER_WIDTH = 7.3
_LONGEST_NAME = 48
_MOST_TICKS = 10
_NAMESPACE = "http://www.w3.org/2000/svg"


class Kind(Enum):
    """What a bar stands for: what the legend says, and its colour."""

    MADE = ("made now", "#2f6fb5")
    CACHED = ("taken from the cache", "#8a99a8")
    MILESTONE = ("on the way to the first answer", "#2f6fb5")
    UNIT = ("units of systemd", "#4f9d69")

    def __init__(self, meaning: str, colour: str) -> None:
        self.meaning = meaning
        self.colour = colour


@dataclass(frozen=True, slots=True)
class Bar:
    """What went on from one moment to another.

    Attributes:
        name: What stands beside it.
        start: When it began, in seconds since the picture's first moment.
        end: When it ended.
        kind: What it stands for.
        note: What is shown when it is pointed at.
        waiting_since: When it began to wait for its start; None if it did not.
    """

    name: str
    start: float
    end: float
    kind: Kind
    note: str = ""
    waiting_since: float | None = None


def timeline_svg(title: str, bars: Sequence[Bar]) -> str:
    """Return a picture of what went on when: an XML document, the same for the same bars.

    There is a row for each bar, in their order. A bar is a `rect` with the class `bar`, and a thin one
    before it, with the class `wait`, shows that it waited.
    """
    last = max((bar.end for bar in bars), default=0.0)
    label = math.ceil(_LETTER_WIDTH * max((len(_shown(bar.name)) for bar in bars), default=0)) + 20
    scale = CHART_WIDTH / last if last > 0 else 0.0
    width, bottom = label + CHART_WIDTH + _TEXT_WIDTH, _TOP + ROW_HEIGHT * len(bars)
    root = ET.Element(
        "svg",
        {
            "xmlns": _NAMESPACE,
            "version": "1.1",
            "width": str(width),
            "height": str(bottom + ROW_HEIGHT),
            "viewBox": f"0 0 {width} {bottom + ROW_HEIGHT}",
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    ET.SubElement(root, "title").text = _printable(title)
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "white"})
    _text(root, 10, 20, title, size="15")
    _legend(root, bars)
    for tick in _ticks(last):
        x = label + tick * scale
        line = {"x1": _number(x), "x2": _number(x), "y1": str(_TOP - 4), "y2": str(bottom)}
        ET.SubElement(root, "line", line | {"class": "tick", "stroke": "#d5dae0"})
        _text(root, x, _TOP - 8, f"{tick:g} s", anchor="middle", colour="#5a6672")
    for number, bar in enumerate(bars):
        _row(root, bar, label, scale, _TOP + ROW_HEIGHT * number)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def write_timeline(target: Path, title: str, bars: Sequence[Bar]) -> None:
    """Write such a picture to a file.

    Raises:
        ImageError: It cannot be written.
    """
    try:
        target.write_text(timeline_svg(title, bars), encoding="utf-8")
    except OSError as error:
        raise ImageError(f"cannot write {target}: {error.strerror}") from error


def _row(root: ET.Element, bar: Bar, label: int, scale: float, top: int) -> None:
    group = ET.SubElement(root, "g")
    ET.SubElement(group, "title").text = _printable(f"{bar.name}: {bar.note}" if bar.note else bar.name)
    middle = top + ROW_HEIGHT / 2
    _text(group, label - 8, middle + 4, _shown(bar.name), anchor="end")
    if bar.waiting_since is not None:
        shape = _span(label + bar.waiting_since * scale, label + bar.start * scale, middle - 1, 2)
        ET.SubElement(group, "rect", shape | {"class": "wait", "fill": "#c98b2b"})
    shape = _span(label + bar.start * scale, label + bar.end * scale, middle - _BAR_HEIGHT / 2, _BAR_HEIGHT)
    ET.SubElement(group, "rect", shape | {"class": "bar", "fill": bar.kind.colour})
    _text(group, label + bar.end * scale + 5, middle + 4, f"{bar.end - bar.start:.3f} s", colour="#5a6672")


def _span(left: float, right: float, top: float, height: float) -> dict[str, str]:
    """Return the attributes of a rectangle; what took no time is still to be seen."""
    sides = {"x": left, "y": top, "width": max(right - left, 1.0), "height": height}
    return {name: _number(value) for name, value in sides.items()}


def _legend(root: ET.Element, bars: Sequence[Bar]) -> None:
    entries = [(kind.meaning, kind.colour) for kind in Kind if any(bar.kind is kind for bar in bars)]
    if any(bar.waiting_since is not None for bar in bars):
        entries.append(("waiting", "#c98b2b"))
    x = 10.0
    for meaning, colour in entries:
        ET.SubElement(
            root, "rect", {"x": _number(x), "y": "30", "width": "10", "height": "10", "fill": colour}
        )
        _text(root, x + 15, 39, meaning)
        x += 15 + _LETTER_WIDTH * len(meaning) + 15


def _ticks(last: float) -> Iterator[float]:
    """Yield round times from 0 on, at most as many as are easily read."""
    if last <= 0:
        return
    power = 10 ** math.floor(math.log10(last / _MOST_TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if last / (power * factor) <= _MOST_TICKS)
    for number in range(int(last / step) + 1):
        yield number * step


def _text(
    parent: ET.Element,
    x: float,
    y: float,
    text: str,
    *,
    size: str = "12",
    anchor: str = "start",
    colour: str = "#1d2730",
) -> None:
    place = {"x": _number(x), "y": _number(y), "font-size": size, "text-anchor": anchor, "fill": colour}
    ET.SubElement(parent, "text", place).text = _printable(text)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _shown(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _printable(text: str) -> str:
    """Return text of characters that XML can hold: a guest's names may have others."""
    return "".join(character if character.isprintable() else "?" for character in text)
