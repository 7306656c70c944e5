"""Stanzas of fields, as apt's sources have them. Source: deb822(5)."""

from __future__ import annotations

from collections.abc import Mapping


def stanza(fields: Mapping[str, str]) -> str:
    """Return a stanza of the fields that have a value.

    A value of several lines begins on the line after the field's name; an empty line of it, which would end
    the field, becomes a dot.
    """
    return "".join(f"{name}:{_value(value)}\n" for name, value in fields.items() if value)


def _value(value: str) -> str:
    lines = value.splitlines()
    return f" {value}" if len(lines) == 1 else "".join(f"\n {line.strip() or '.'}" for line in lines)
