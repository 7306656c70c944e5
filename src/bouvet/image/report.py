"""What a verification found: a row for each requirement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement and what was found.

    Attributes:
        area: The part of the image that it concerns, for example `Base`.
        requirement: What must be so.
        passed: Whether it is.
        found: What was found, in one printable line of at most 200 characters.
    """

    area: str
    requirement: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Report:
    """All rows about one image.

    Attributes:
        image: The image's path.
        rows: The rows, in the order in which they are shown.
    """

    image: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return all(row.passed for row in self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows whose requirement is not met."""
        return tuple(row for row in self.rows if not row.passed)
