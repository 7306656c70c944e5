"""What does not go together in a spec, although each value is right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bouvet.spec.kernel import kernel_contradictions
from bouvet.spec.templates import unknown_names
from bouvet.spec.toolchains import toolchain_contradictions
from bouvet.spec.values import parse_size

MAXIMUM_LABEL = 16
"""Bytes of an ext4 label."""


def contradictions(data: Mapping[str, Any]) -> list[str]:
    """Return what does not go together in a spec's data, valid or not, each with its path."""
    return [
        *_size_contradictions(data),
        *_base_contradictions(data),
        *toolchain_contradictions(data),
        *kernel_contradictions(data),
        *_duplicates(data),
        *_unknown_variables(data),
    ]


def _size_contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("size") is not None and "free" in data:
        yield "size: 'size' is the final size and 'free' adds to it; set one of them"
    with contextlib.suppress(ValueError):
        if "size" in data and "max_size" in data and parse_size(data["size"]) > parse_size(data["max_size"]):
            yield "size: is larger than 'max_size'"
    if isinstance(label := data.get("label"), str) and len(label.encode()) > MAXIMUM_LABEL:
        yield f"label: has {len(label.encode())} bytes; at most {MAXIMUM_LABEL} fit"


def _base_contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("agent_first") and data.get("agent") is False:
        yield "agent_first: there is no agent; leave 'agent' out, or set it to true"
    if data.get("from") is not None and data.get("debian"):
        yield "from: the image starts with this one or with a tree of [debian]; set one of them"
    if data.get("from") is not None and _table(data, "node").get("source") == "nodesource":
        yield "node.source: NodeSource's packages come with a tree of [debian]; over 'from' use 'nodejs.org'"
    if data.get("from") is not None and data.get("slim"):
        yield "slim: is what Debian's packages are installed without; what 'from' brings is there already"
    system = _table(data, "system")
    environment = _table(system, "environment")
    if "PATH" in environment:
        yield "system.environment.PATH: write it as system.path, a list of directories"
    if "LANG" in environment and system.get("locale") is not None:
        yield "system.environment.LANG: is what system.locale sets; set one of them"
    both = set(_names(_table(data, "services"), "enable")) & set(_names(_table(data, "services"), "disable"))
    yield from (f"services: '{unit}' is to be enabled and disabled" for unit in sorted(both))
    both = set(_names(_table(data, "apt"), "add")) & set(_names(_table(data, "apt"), "remove"))
    yield from (f"apt: '{package}' is to be added and removed" for package in sorted(both))


def _duplicates(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is named twice where each name is one thing."""
    for path, rows, key in (
        ("files", data.get("files"), "path"),
        ("users", data.get("users"), "name"),
        ("run", data.get("run"), "name"),
        ("apt.sources", _table(data, "apt").get("sources"), "name"),
        ("test.commands", _table(data, "test").get("commands"), "name"),
    ):
        seen: set[str] = set()
        for index, row in enumerate(rows if isinstance(rows, list | tuple) else ()):
            name = row.get(key) if isinstance(row, Mapping) else None
            if isinstance(name, str) and name in seen:
                yield f"{path}[{index}].{key}: '{name}' is there twice"
            elif isinstance(name, str):
                seen.add(name)


def _unknown_variables(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names in templates that [variables] has no value for; those in files are found later."""
    files, variables = data.get("files"), _table(data, "variables")
    for index, row in enumerate(files if isinstance(files, list | tuple) else ()):
        content = row.get("content") if isinstance(row, Mapping) and row.get("template") is True else None
        for name in unknown_names(content, variables) if isinstance(content, str) else ():
            yield f"files[{index}].content: ${{{name}}} has no value in [variables]"


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _names(table: Mapping[str, Any], key: str) -> Iterable[str]:
    value = table.get(key)
    return [name for name in value if isinstance(name, str)] if isinstance(value, list | tuple) else []
