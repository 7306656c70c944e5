"""The protocol's vectors, run against the real agent.

A vector is a list of steps on one connection; README.md beside this file describes their form.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

GUEST_ONLY = "runtimes.json"
"""Needs programs of the devbox image at its paths: a host's own are elsewhere or missing."""

DIRECTORY = Path(__file__).parent
FILES = sorted(file for file in DIRECTORY.glob("*.json") if file.name != GUEST_ONLY)


def vectors(files: Sequence[Path] = FILES) -> list[Any]:
    """Return the vectors of files as parameters of a test."""
    return [
        pytest.param(vector, id=f"{file.stem}: {vector['name']}")
        for file in files
        for vector in json.loads(file.read_text())["vectors"]
    ]


@pytest.mark.parametrize("vector", vectors())
def test_vector(vector: dict[str, Any], connection: Any, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    play(vector, connection, str(directory))


def play(vector: dict[str, Any], connection: Any, directory: str) -> None:
    """Take a vector's steps on a new connection; the directory is empty, and where the agent is."""
    names: dict[str, Any] = {"directory": directory}
    for step in vector["steps"]:
        step = named(step, names)  # noqa: PLW2901
        if "send" in step:
            connection.send_line(json.dumps(expand(step["send"]), ensure_ascii=False).encode())
        else:
            connection.send_line(join(step["send_line"]))
        if "expect" in step:
            found = json.loads(connection.read_line())
            problem = difference(expand(step["expect"]), found)
            assert problem is None
            names |= captured(step["expect"], found)
        elif "expect_all" in step:
            expect_all(step["expect_all"], connection)
        elif "expect_stream" in step:
            content, after = unframed(connection.read_line())
            assert content == join(step["expect_stream"]["content"])
            assert difference(expand(step["expect_stream"]["then"]), json.loads(after)) is None
        elif "expect_line" in step:
            assert connection.read_line() == join(step["expect_line"])


def expect_all(messages: list[Any], connection: Any) -> None:
    """Read as many messages as are expected: these ones, in whatever order."""
    left = list(messages)
    for _ in messages:
        found = json.loads(connection.read_line())
        problems = [difference(expand(expected), found) for expected in left]
        assert None in problems, problems
        left.pop(problems.index(None))


def test_nothing_is_sent_unasked(connection: Any) -> None:
    """Steps without an expectation rely on it: an answer to them would be taken for the next one's."""
    connection.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.read_line()


# --- The vectors' own language ------------------------------------------------------------------------


def named(value: Any, names: dict[str, Any]) -> Any:
    """Replace `${name}` in strings by what is known under that name; a string of it alone becomes that."""
    if isinstance(value, str):
        for name, meaning in names.items():
            if value == f"${{{name}}}":
                return meaning
            value = value.replace(f"${{{name}}}", str(meaning))
        return value
    if isinstance(value, list):
        return [named(item, names) for item in value]
    if isinstance(value, dict):
        return {name: named(item, names) for name, item in value.items()}
    return value


def captured(expected: Any, found: Any) -> dict[str, Any]:
    """Return what an answer says where a name is expected."""
    match expected:
        case {"$capture": name}:
            return {name: found}
        case {"$has": members}:
            return captured(members, found)
        case dict() if isinstance(found, dict):
            return {
                key: value
                for name in expected
                for key, value in captured(expected[name], found[name]).items()
            }
    return {}


def unframed(line: bytes) -> tuple[bytes, bytes]:
    """Return the content of the frames that a line begins with, and what follows them."""
    content = b""
    while length := int.from_bytes(line[:4], "big"):
        content += line[4 : 4 + length]
        line = line[4 + length :]
    return content, line[4:]


def join(parts: list[Any]) -> bytes:
    """Return the bytes that a list of parts stands for."""
    pieces = []
    for part in parts:
        match part:
            case str():
                pieces.append(part.encode())
            case {"repeat": text, "times": times}:
                pieces.append(text.encode() * times)
            case {"base64": text}:
                pieces.append(base64.b64decode(text, validate=True))
            case _:
                raise ValueError(f"not a part: {part}")
    return b"".join(pieces)


def expand(value: Any) -> Any:
    """Replace `{"$text": parts}` by the string that the parts stand for."""
    match value:
        case {"$text": parts}:
            return join(parts).decode()
        case dict():
            return {name: expand(item) for name, item in value.items()}
        case list():
            return [expand(item) for item in value]
    return value


def difference(expected: Any, found: Any, where: str = "response") -> str | None:
    """Say where a response first differs from what is expected; None if it does not."""
    match expected:
        case {"$regex": _} | {"$capture": _} | {"$number": _}:
            return None if fits(expected, found) else f"{where} is not {expected}: {shorten(found)}"
        case {"$has": dict(members)} if isinstance(found, dict):
            return difference(members, {name: found[name] for name in found.keys() & members.keys()}, where)
        case dict() if isinstance(found, dict):
            if expected.keys() != found.keys():
                return f"{where} has the members {sorted(found)}, not {sorted(expected)}: {shorten(found)}"
            pairs = [(f"{where}.{name}", expected[name], found[name]) for name in expected]
        case list() if isinstance(found, list):
            if len(expected) != len(found):
                return f"{where} has {len(found)} items, not {len(expected)}: {shorten(found)}"
            pairs = [(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(expected, found, strict=True))]
        case _:
            same = type(expected) is type(found) and expected == found
            return None if same else f"{where} is {shorten(found)}, not {shorten(expected)}"
    return next(filter(None, (difference(wanted, got, place) for place, wanted, got in pairs)), None)


def fits(expected: dict[str, str], found: Any) -> bool:
    """Say whether an answer is of the kind that is expected."""
    match expected:
        case {"$regex": pattern}:
            return isinstance(found, str) and re.search(pattern, found) is not None
        case {"$capture": _}:
            return (isinstance(found, str) and found != "") or is_count(found)
    return is_count(found)


def is_count(found: Any) -> bool:
    """Say whether an answer is a whole number from 0."""
    return isinstance(found, int) and not isinstance(found, bool) and found >= 0


def shorten(value: Any) -> str:
    """Return a value as text of a bearable length."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]}...{text[-80:]} ({len(text)} characters)"


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ([1], [1, 2]),
        ([1], 1),
        ({"$regex": "^x"}, "yx"),
        ({"$regex": "1"}, 1),
        ({"$capture": "id"}, 1.5),
        ({"$capture": "id"}, True),
        ({"$has": {"a": 1}}, {"a": 2, "b": 1}),
        ({"$has": {"a": 1}}, {"b": 1}),
        ({"$has": {"a": 1}}, [1]),
        ({"$capture": "id"}, ""),
        ({"$number": "any"}, "1"),
        ({"$number": "any"}, True),
        ({"$number": "any"}, -1),
        (None, False),
    ],
)
def test_a_difference_is_found(expected: Any, found: Any) -> None:
    assert difference(expected, found) is not None
