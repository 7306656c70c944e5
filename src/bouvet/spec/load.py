"""Reads specs: presets by name, TOML files by path, and single values by `key=value`.

Everything that is wrong is reported at once, each with its path in the spec.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bouvet.errors import SpecError
from bouvet.spec.model import Spec, contradictions

_PRESETS = resources.files("bouvet.spec") / "presets"


def presets() -> list[str]:
    """Return the presets' names, sorted."""
    return sorted(
        path.name.removesuffix(".toml") for path in _PRESETS.iterdir() if path.name.endswith(".toml")
    )


def load(source: str, overrides: Sequence[str] = ()) -> Spec:
    """Return the spec of a preset or of a TOML file, with single values replaced.

    Args:
        source: A preset's name, or a file's path (it ends in `.toml` or has a `/`).
        overrides: `key=value` each: a dotted path, and plain text, `true`, `false`, or a quoted text, an
            array or a table of TOML.

    Raises:
        SpecError: It cannot be found or read, or anything in it is wrong; the details list all of it.
    """
    data = _parse(*_read(source))
    problems = [problem for text in overrides if (problem := _override(data, text))]
    problems += contradictions(data)
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        # Errors of the whole are the contradictions, found above even where single values are wrong too.
        rows = [row for row in error.errors() if row["loc"]]
        problems += [_describe(row["loc"], row["msg"], row["type"], row["input"]) for row in rows]
    if problems:
        count = f"{len(problems)} errors" if len(problems) > 1 else "an error"
        raise SpecError(
            f"the spec {source} has {count}",
            hint="'bouvet spec schema' lists every key; 'bouvet spec show devbox' is an example",
            details=tuple(problems),
        )
    return spec


def _read(source: str) -> tuple[str, str]:
    """Return a name for messages, and the TOML text."""
    if "/" not in source and not source.endswith(".toml"):
        if source in presets():
            return source, (_PRESETS / f"{source}.toml").read_text(encoding="utf-8")
        near = difflib.get_close_matches(source, presets(), n=1)
        raise SpecError(
            f"there is no preset '{source}'",
            hint=f"did you mean '{near[0]}'?"
            if near
            else f"the presets are {', '.join(presets())}; a file's name ends in .toml",
        )
    try:
        return source, Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read the spec {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"the spec {source} is not UTF-8 text: {error}") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"the spec {name} is not valid TOML: {error}") from error


def _override(data: dict[str, Any], text: str) -> str | None:
    """Set one value in place; return what is wrong with it."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return f"--set {text}: write key=value, for example system.hostname=box"
    table: Any = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return f"--set {text}: '{part}' is a value and has no keys"
    # Plain text needs no quotes on a command line; sizes and versions are text too.
    table[parts[-1]] = value
    if value in {"true", "false"} or value.startswith(("[", "{", '"', "'")):
        try:
            table[parts[-1]] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            return f"--set {text}: the value is not valid TOML: {error}"
    return None


def _describe(location: tuple[int | str, ...], message: str, kind: str, value: object) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys_at(location[:-1]), n=1)
        return f"{path}: is no key that bouvet knows" + (f"; did you mean '{near[0]}'?" if near else "")
    message = message.removeprefix("Value error, ")
    shown = "" if isinstance(value, dict | list) else f" ({value!r})"
    return f"{path}{shown}: {message}" if path else message


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known in a table of the spec."""
    model: type[BaseModel] = Spec
    for part in location:
        field = model.model_fields.get(str(part))
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
