"""The spec: what an image shall hold.

Every model is frozen and refuses keys that it does not know. Sizes are whole bytes, or text with a unit:
`64M`, `2500M`, `2G` (binary: 1 K is 1024 bytes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Architecture = Literal["x86_64", "aarch64"]

MAXIMUM_SIZE = 1 << 44
"""The largest image: 16 TiB, what ext4 holds with blocks of 4 KiB and 32-bit block numbers."""

MAXIMUM_LABEL = 16
"""Bytes of an ext4 label."""

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
# Debian Policy 5.6.1: at least two characters, beginning with a letter or digit.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# RFC 1123, section 2.1, one label.
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"\d+(\.\d+){0,2}")
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")

RUST_PACKAGES = ("cargo-web", "rust-web-clippy", "rustc-web", "rustfmt-web")
"""Debian's stable Rust toolchain, kept current by security updates."""


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


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
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
PackageName = Annotated[
    str, _matching(_PACKAGE, "Debian package name (small letters, digits, '+', '-', '.')")
]
OneLine = Annotated[str, AfterValidator(_one_line)]
PathPattern = Annotated[OneLine, AfterValidator(_pattern)]
Version = Annotated[str, _matching(_VERSION, "version or part of one, for example '20' or '20.11'")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Debian(_Model):
    """The Debian tree below everything else."""

    suite: Annotated[str, _matching(_SUITE, "suite's code name, for example 'bookworm'")] = Field(
        "bookworm", description="The release's code name."
    )
    mirror: Annotated[str, AfterValidator(_lines)] | None = Field(
        None,
        description="The URL of a mirror's 'debian' directory, or whole lines for apt ('deb URL SUITE main', "
        "one for the suite, one for its updates, one for its security); mmdebstrap's own "
        "default if it is not set.",
    )
    packages: tuple[PackageName, ...] = Field(
        (), description="Packages to install beside the essential ones.", strict=False
    )
    exclude: tuple[PathPattern, ...] = Field(
        (), description="dpkg path-exclude patterns; they hold in the guest too.", strict=False
    )
    include: tuple[PathPattern, ...] = Field(
        (), description="dpkg path-include patterns: exceptions from 'exclude'.", strict=False
    )


class Node(_Model):
    """Node.js and npm."""

    version: Version = Field("20", description="Node.js: the newest release with this prefix.")
    npm: Version = Field("11", description="npm: the newest release with this prefix that runs on it.")


class Rust(_Model):
    """Rust at /usr/local/cargo/bin, from Debian's toolchain packages."""


class System(_Model):
    """The guest's own configuration."""

    hostname: Annotated[str, _matching(_HOSTNAME, "host name (letters, digits, '-', at most 63)")] = Field(
        "bouvet", description="The host name."
    )
    root_password: OneLine | None = Field(
        None, description="Root's password in clear text; not set, or empty: the account is locked."
    )
    network: bool = Field(True, description="Whether eth0 takes its address by DHCP.")
    path: tuple[Annotated[OneLine, AfterValidator(_absolute)], ...] = Field(
        ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
        description="PATH of login shells, services and the agent's children.",
        min_length=1,
        strict=False,
    )
    environment: dict[Annotated[str, _matching(_VARIABLE, "variable's name")], OneLine] = Field(
        default_factory=dict, description="Further variables for the same."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_password_locks(cls, data: Any) -> Any:
        # TOML has no null: '--set system.root_password=""' is how a preset's password is taken away.
        if isinstance(data, dict) and data.get("root_password") == "":
            return {**data, "root_password": None}
        return data


class Spec(_Model):
    """An image's spec."""

    label: OneLine = Field("bouvet-rootfs", description="The file system's label, at most 16 bytes.")
    free: Size = Field(
        parse_size("64M"), description="Free space beyond what the content needs, where 'size' is not set."
    )
    size: Size | None = Field(None, description="The image's final size; what the content needs if not set.")
    agent: bool = Field(True, description="Whether the guest agent is installed and started.")
    debian: Debian = Field(default_factory=Debian, description="The Debian tree.")
    node: Node | None = Field(None, description="Node.js; none if not set.")
    rust: Rust | None = Field(None, description="Rust; none if not set.")
    system: System = Field(default_factory=System, description="The guest's configuration.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := contradictions(self.model_dump(exclude_unset=True)):
            raise ValueError("; ".join(found))
        return self


def contradictions(data: Mapping[str, Any]) -> list[str]:
    """Return what does not go together in a spec's data, valid or not, each with its path."""
    found = []
    if data.get("size") is not None and "free" in data:
        found.append("size: 'size' is the final size and 'free' adds to it; set one of them")
    debian, system = _table(data, "debian"), _table(data, "system")
    packages = debian.get("packages") or ()
    if data.get("rust") is not None and isinstance(packages, list | tuple):
        missing = [name for name in RUST_PACKAGES if name not in packages]
        if missing:
            found.append(f"rust: needs {', '.join(missing)} in debian.packages")
    if isinstance(label := data.get("label"), str) and len(label.encode()) > MAXIMUM_LABEL:
        found.append(f"label: has {len(label.encode())} bytes; at most {MAXIMUM_LABEL} fit")
    if "PATH" in _table(system, "environment"):
        found.append("system.environment.PATH: write it as system.path, a list of directories")
    return found


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}
