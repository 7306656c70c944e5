"""What every benchmark writes with `--json`, so that `python bench` can make one table of all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One answer of a benchmark.

    Attributes:
        what: What was measured.
        value: The median, in `unit`.
        unit: `s`, `ms`, `MB/s`, `MB` and the like.
        against: What it was compared to in the same run, empty if to nothing.
        reference: The median of that, in the same unit.
        aim: What should come out, in words: `at most 1.25`.
    """

    what: str
    value: float
    unit: str
    against: str = ""
    reference: float | None = None
    aim: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over the reference."""
        return self.value / self.reference if self.reference else None


def write_json(target: Path, rows: Iterable[Row], details: Any) -> None:
    """Write a benchmark's rows, and whatever else it tells."""
    told = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
    target.write_text(json.dumps({"rows": told, "details": details}, indent=2) + "\n")


def read_rows(source: Path) -> list[Row]:
    """Return the rows that a benchmark has written."""
    names = [field.name for field in dataclasses.fields(Row)]
    return [Row(**{name: row[name] for name in names}) for row in json.loads(source.read_text())["rows"]]


def table(rows: Iterable[tuple[str, Row]]) -> Iterator[str]:
    """Yield a Markdown table of rows, each with its benchmark's name."""
    yield "| benchmark | what | measured | against | measured | ratio | aim |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in rows:
        reference = "" if row.reference is None else f"{row.reference:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells = [name, row.what, f"{row.value:.4g} {row.unit}", row.against, reference, ratio, row.aim]
        yield f"| {' | '.join(cells)} |"
