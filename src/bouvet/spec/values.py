"""Values that specs are made of: sizes, names, paths, one-line texts.

Sizes are whole bytes, or text with a unit: `64M`, `2500M`, `2G` (binary: 1 K is 1024 bytes).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

Architecture = Literal["x86_64", "aarch64"]

MAXIMUM_SIZE = 1 << 44
"""The largest image: 16 TiB, what ext4 holds with blocks of 4 KiB and 32-bit block numbers."""

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
# Debian Policy 5.6.1: at least two characters, beginning with a letter or digit.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"\d+(\.\d+){0,2}")


class Table(BaseModel):
    """A table of a spec: frozen, with no keys but its own, and no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def parse_size(value: object) -> int:
    """Return a size in bytes from a number or from text such as `64M`.

    Raises:
        ValueError: It is neither, negative, or above `MAXIMUM_SIZE`.
    """
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        value = int(found[1]) * _UNITS[found[2].upper()]
    if isinstance(value, bool) or not isinstance(value, int):
        # pydantic turns a ValueError into a message with the value's path, and lets a TypeError through
        raise ValueError(  # noqa: TRY004
            "is no size; write bytes, or a number with K, M, G or T, for example '2500M'"
        )
    if not 0 <= value <= MAXIMUM_SIZE:
        raise ValueError(f"is out of range; a size is between 0 and {MAXIMUM_SIZE} bytes (16 TiB)")
    return value


def matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    """Return a validator that accepts what the pattern matches as a whole."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"is no {what}")
        return value

    return AfterValidator(check)


def _one_line(value: str) -> str:
    if any(ord(character) < 32 or character == "\x7f" for character in value):
        raise ValueError("holds a control character or a line break")
    return value


def _lines(value: str) -> str:
    for line in value.split("\n"):
        _one_line(line)
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or ":" in value:
        raise ValueError("is no absolute directory (it begins with '/' and has no ':')")
    return value


def _pattern(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("is no pattern of a path; it begins with '/', for example '/usr/share/man/*'")
    return value


Size = Annotated[int, BeforeValidator(parse_size)]
PackageName = Annotated[str, matching(_PACKAGE, "Debian package name (small letters, digits, '+', '-', '.')")]
Lines = Annotated[str, AfterValidator(_lines)]
OneLine = Annotated[str, AfterValidator(_one_line)]
PathDirectory = Annotated[OneLine, AfterValidator(_absolute)]
PathPattern = Annotated[OneLine, AfterValidator(_pattern)]
Version = Annotated[str, matching(_VERSION, "version or part of one, for example '20' or '20.11'")]
VariableName = Annotated[str, matching(_VARIABLE, "variable's name")]
