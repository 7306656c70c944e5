"""The reference of specs names every key, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from bouvet.spec import Spec

REFERENCE = Path(__file__).parents[3] / "docs/reference/spec.md"


def tables_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for argument in get_args(annotation) for table in tables_in(argument)]


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys; tables that only hold keys are not keys of their own."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        tables = tables_in(field.annotation)
        if not tables or field.annotation not in tables:
            yield key
        for table in tables:
            yield from keys_of(table, key + ".")


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    documented = re.findall(r"(?m)^\| `([a-z0-9_.]+)` \|", REFERENCE.read_text())
    assert len(set(documented)) == len(documented)
    assert set(documented) == {"extends", *keys_of(Spec)}
