"""Reads specs: presets by name, TOML files by path, and single values by `key=value`.

Everything that is wrong is reported at once, each with its path in the spec.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bouvet.errors import SpecError
from bouvet.spec.contradictions import contradictions
from bouvet.spec.extending import Part, chain, merged
from bouvet.spec.model import Spec


def load(source: str, overrides: Sequence[str] = ()) -> Spec:
    """Return the spec of a preset or of a TOML file, with what it extends and single values replaced.

    Args:
        source: A preset's name, or a file's path (it ends in `.toml` or has a `/`).
        overrides: `key=value` each: a dotted path, and plain text, `true`, `false`, or a quoted text, an
            array or a table of TOML.

    Raises:
        SpecError: It cannot be found or read, or anything in it is wrong; the details list all of it.
    """
    parts = chain(source)
    data = functools.reduce(merged, (part.data for part in parts))
    given: dict[str, Any] = {}
    problems = [problem for text in overrides if (problem := _override(text, data, given))]
    problems += [problem for part in parts for problem in _part_problems(part, source)]
    problems += [problem for problem in _invalid(given) if problem not in problems]
    problems += contradictions(data)
    if problems:
        raise _refused(source, problems)
    try:
        return Spec.model_validate(data)
    except ValidationError as error:  # what only the merged whole has
        raise _refused(source, [_describe(row["loc"], row) for row in error.errors()]) from error


def _refused(source: str, problems: list[str]) -> SpecError:
    count = f"{len(problems)} errors" if len(problems) > 1 else "an error"
    return SpecError(
        f"the spec {source} has {count}",
        hint="'bouvet spec schema' lists every key; 'bouvet spec show devbox' is an example",
        details=tuple(problems),
    )


def _part_problems(part: Part, source: str) -> list[str]:
    """Return what is wrong in one spec of a chain: its own paths are those that its author knows."""
    prefix = "" if part.name == source else f"{part.name}: "
    return [prefix + problem for problem in _invalid(part.data)]


def _invalid(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with single values and tables; contradictions concern the whole."""
    try:
        Spec.model_validate(data)
    except ValidationError as error:
        return [_describe(row["loc"], row) for row in error.errors() if row["loc"]]
    return []


def _override(text: str, data: dict[str, Any], given: dict[str, Any]) -> str | None:
    """Set one value in place, in both; return what is wrong with it."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return f"--set {text}: write key=value, for example system.hostname=box"
    # Plain text needs no quotes on a command line; sizes and versions are text too.
    parsed: Any = value
    if value in {"true", "false"} or value.startswith(("[", "{", '"', "'")):
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            return f"--set {text}: the value is not valid TOML: {error}"
    for table in (data, given):
        place: Any = table
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                return f"--set {text}: '{part}' is a value and has no keys"
        place[parts[-1]] = parsed
    return None


def _describe(location: tuple[int | str, ...], row: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if row["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys_at(location[:-1]), n=1)
        return f"{path}: is no key that bouvet knows" + (f"; did you mean '{near[0]}'?" if near else "")
    message = row["msg"].removeprefix("Value error, ")
    if row["type"] == "missing":
        message = "is missing"
    shown = (
        "" if row["type"] == "missing" or isinstance(row["input"], dict | list) else f" ({row['input']!r})"
    )
    return f"{path}{shown}: {message}" if path else message


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known in a table of the spec."""
    model: type[BaseModel] = Spec
    for part in location:
        if isinstance(part, int):
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        models = list(_models_in(fields[part].annotation)) if part in fields else []
        if not models:
            return []
        model = models[0]
    keys = [field.alias or name for name, field in model.model_fields.items()]
    return [*keys, "extends"] if model is Spec else keys


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the tables that a value of this type may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
