"""The JSON schema of spec files, for editors and checkers."""

from __future__ import annotations

from typing import Any

from bouvet.spec.extending import presets
from bouvet.spec.model import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The version of JSON schema that it is written in."""

_EXTENDS = {
    "type": "string",
    "description": "A preset's name, or the path of a spec relative to this one: its values hold where this "
    "one says nothing, and lists are added to its lists.",
    "examples": [*presets(), "base.toml"],
}


def json_schema() -> dict[str, Any]:
    """Return the schema of a spec file: what `load` accepts, with each key's description."""
    schema = _without_null(Spec.model_json_schema())
    properties = {"extends": _EXTENDS, **schema.pop("properties")}
    for name in ("node", "rust"):
        either = properties[name]
        either["anyOf"] = [{"$ref": either.pop("$ref")}, {"const": False}]
    return {"$schema": DIALECT, **schema, "title": "bouvet spec", "properties": properties}


def _without_null(value: Any) -> Any:
    """Return a schema without the alternative `null`, which TOML does not have."""
    if isinstance(value, list):
        return [_without_null(each) for each in value]
    if not isinstance(value, dict):
        return value
    result = {key: _without_null(each) for key, each in value.items()}
    if result.get("default", ...) is None:
        del result["default"]
    if isinstance(options := result.get("anyOf"), list) and {"type": "null"} in options:
        options.remove({"type": "null"})
        if len(options) == 1:
            result |= result.pop("anyOf")[0]
    return result
