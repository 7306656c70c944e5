"""Specs that extend others: the chain from a spec to its last parent, and how two are merged.

Tables are merged, lists of things are added to the parent's, and everything else replaces what the parent
says. In lists whose entries have a name, an entry replaces the parent's of the same name.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bouvet.errors import SpecError
from bouvet.spec.packages import ARMORED_KEY

MAXIMUM_CHAIN = 16
"""How many specs may extend one another."""

# Lists that are one setting: the child's takes the place of the parent's.
_SETTINGS = frozenset({"system.path", "formats"})
# Lists of named things, and the key that names them.
_NAMED = {
    "apt.sources": "name",
    "files": "path",
    "run": "name",
    "slim.exclude": "path",
    "test.commands": "name",
    "users": "name",
}
_PRESETS = resources.files("bouvet.spec") / "presets"


@dataclass(frozen=True, slots=True)
class Part:
    """One spec of a chain.

    Attributes:
        name: The preset's name or the file's path, as it was written, for messages.
        data: What it says, without `extends`; host paths are relative to the first spec's directory.
    """

    name: str
    data: dict[str, Any]


def presets() -> list[str]:
    """Return the presets' names, sorted."""
    return sorted(
        path.name.removesuffix(".toml") for path in _PRESETS.iterdir() if path.name.endswith(".toml")
    )


def starter() -> str:
    """Return a commented spec to start with."""
    return (resources.files("bouvet.spec") / "starter.toml").read_text(encoding="utf-8")


def is_file(source: str) -> bool:
    """Return whether a spec is named by its path, and not as a preset."""
    return "/" in source or source.endswith(".toml")


def directory_of(source: str) -> Path:
    """Return the directory that a spec's host paths are relative to: its own, or the working directory."""
    return Path(source).parent if is_file(source) else Path()


def chain(source: str) -> list[Part]:
    """Return a spec and its parents, the last parent first.

    Raises:
        SpecError: One cannot be found or read, is no TOML, or extends itself in the end.
    """
    base = directory_of(source)
    parts: list[Part] = []
    seen: list[str] = []
    name: str | None = source
    while name is not None:
        identity = os.path.realpath(name) if is_file(name) else name
        if identity in seen or len(seen) == MAXIMUM_CHAIN:
            what = "extends itself" if identity in seen else f"has more than {MAXIMUM_CHAIN} parents"
            raise SpecError(
                f"the spec {source} {what}",
                details=(" extends ".join([part.name for part in parts] + [name]),),
            )
        seen.append(identity)
        data = _parse(name)
        parent = data.pop("extends", None)
        here = directory_of(name)
        _rebase(data, Path(os.path.relpath(here, base)))
        parts.append(Part(name, data))
        name = _parent(parent, name, here)
    return parts[::-1]


def merged(parent: Mapping[str, Any], child: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return what the child says, and what the parent says beside it."""
    result = dict(parent)
    for key, value in child.items():
        place = f"{path}.{key}" if path else key
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = merged(below, value, place)
        elif isinstance(value, list) and isinstance(below, list) and place not in _SETTINGS:
            result[key] = _joined(below, value, _NAMED.get(place))
        else:
            result[key] = value
    return result


def _joined(parent: list[Any], child: list[Any], key: str | None) -> list[Any]:
    """Return both lists' entries; one that has the name of a parent's takes its place."""
    result, added = list(parent), []
    for row in child:
        names = [_name_of(other, key) for other in parent]
        name = _name_of(row, key)
        if name is not None and name in names:
            result[names.index(name)] = row
        elif key is not None or row not in parent:
            added.append(row)
    return result + added


def _name_of(row: object, key: str | None) -> str | None:
    name = row.get(key) if key is not None and isinstance(row, dict) else None
    return name if isinstance(name, str) else None


def _parent(parent: object, name: str, directory: Path) -> str | None:
    """Return the name of what a spec extends, from the working directory."""
    if parent is None:
        return None
    if not isinstance(parent, str) or not parent:
        raise SpecError(
            f"the spec {name} extends nothing that could be: {parent!r}",
            hint=f"write a preset's name ({', '.join(presets())}) or a file's path in quotes",
        )
    return str(directory / parent) if is_file(parent) else parent


def _parse(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(name))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"the spec {name} is not valid TOML: {error}") from error


def _read(name: str) -> str:
    if not is_file(name):
        if name in presets():
            return (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
        near = difflib.get_close_matches(name, presets(), n=1)
        raise SpecError(
            f"there is no preset '{name}'",
            hint=f"did you mean '{near[0]}'?"
            if near
            else f"the presets are {', '.join(presets())}; a file's name ends in .toml",
        )
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read the spec {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"the spec {name} is not UTF-8 text: {error}") from error


def _rebase(data: dict[str, Any], directory: Path) -> None:
    """Make a parent's host paths relative to the first spec's directory, in place."""
    if directory == Path():
        return

    def rebased(path: str) -> str:
        return os.path.normpath(directory / path) if path else path

    for row in _rows(data.get("files")):
        _change(row, "source", rebased)
    apt, node = data.get("apt"), data.get("node")
    for row in _rows(apt.get("sources") if isinstance(apt, dict) else None) + _rows([node]):
        # A key is a path, the text itself, or for Node.js a URL.
        _change(row, "key", lambda key: key if ARMORED_KEY in key or "://" in key else rebased(key))
    _change(data, "from", lambda image: _rebased_image(image, rebased))


def _rebased_image(image: str, rebased: Callable[[str], str]) -> str:
    transport, colon, rest = image.partition(":")
    if not colon or transport == "docker":
        return image
    path, colon, tag = rest.partition(":")
    return f"{transport}:{rebased(path)}{colon}{tag}"


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _change(table: dict[str, Any], key: str, change: Callable[[str], str]) -> None:
    if isinstance(value := table.get(key), str):
        table[key] = change(value)
