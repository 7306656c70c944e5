"""Values that specs are made of: sizes, names, paths, one-line texts.

Sizes are whole bytes, or text with a unit: `64M`, `2500M`, `2G` (binary: 1 K is 1024 bytes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

Architecture = Literal["x86_64", "aarch64"]

MAXIMUM_SIZE = 1 << 44
"""The largest image: 16 TiB, what ext4 holds with blocks of 4 KiB and 32-bit block numbers."""

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
# Debian Policy 5.6.1: at least two characters, beginning with a letter or digit.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What adduser(8) and systemd accept (systemd's "User/Group Name Syntax", the strict form).
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_VERSION = re.compile(r"\d+(\.\d+){0,2}")


class Table(BaseModel):
    """A table of a spec: frozen, with no keys but its own, and no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)


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


@dataclass(frozen=True, slots=True)
class matching:  # noqa: N801  (used like a function)
    """Marks text that a pattern must match as a whole.

    Attributes:
        pattern: The pattern; editors get it through the JSON schema.
        what: What the text is, for the message.
    """

    pattern: re.Pattern[str]
    what: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic check the pattern after the type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema with the pattern, anchored as JSON schema needs it."""
        return {**handler(schema), "pattern": f"^(?:{self.pattern.pattern})$"}

    def _check(self, value: str) -> str:
        if not self.pattern.fullmatch(value):
            raise ValueError(f"is no {self.what}")
        return value


def _one_line(value: str) -> str:
    if any(ord(character) < 32 or character == "\x7f" for character in value):
        raise ValueError("holds a control character or a line break")
    return value


def _lines(value: str) -> str:
    for line in value.split("\n"):
        _one_line(line)
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def _path(value: str) -> str:
    """Accept an absolute path of the guest that means the same without looking at any link."""
    _one_line(value)
    parts = value.removesuffix("/").split("/")
    if parts[0] or any(part in {"", ".", ".."} for part in parts[1:]):
        raise ValueError("is no absolute path without '.', '..' and double '/'")
    return value


def _host_path(value: str) -> str:
    if not _one_line(value):
        raise ValueError("is empty; write a path, '.' for the spec's own directory")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or ":" in value:
        raise ValueError("is no absolute directory (it begins with '/' and has no ':')")
    return value


def _pattern(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("is no pattern of a path; it begins with '/', for example '/usr/share/man/*'")
    return value


_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": MAXIMUM_SIZE},
        {"type": "string", "pattern": f"^{_SIZE.pattern.replace('KMGT', 'KMGTkmgt')}$"},
    ]
}

Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA, mode="validation")]
PackageName = Annotated[str, matching(_PACKAGE, "Debian package name (small letters, digits, '+', '-', '.')")]
Text = Annotated[str, AfterValidator(_text)]
Lines = Annotated[str, AfterValidator(_lines)]
OneLine = Annotated[str, AfterValidator(_one_line)]
PathDirectory = Annotated[OneLine, AfterValidator(_absolute)]
PathPattern = Annotated[OneLine, AfterValidator(_pattern)]
AbsolutePath = Annotated[str, AfterValidator(_path)]
HostPath = Annotated[str, AfterValidator(_host_path)]
AccountName = Annotated[str, matching(_ACCOUNT, "account name (small letters, digits, '_', '-')")]
Version = Annotated[str, matching(_VERSION, "version or part of one, for example '20' or '20.11'")]
VariableName = Annotated[str, matching(_VARIABLE, "variable's name")]
