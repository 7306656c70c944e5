"""The spec: what an image shall hold. Each subject has its module; here they come together.

Every table is frozen and refuses keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from bouvet.spec.debian import Debian
from bouvet.spec.system import System
from bouvet.spec.toolchains import RUST_PACKAGES, Node, Rust
from bouvet.spec.values import OneLine, Size, Table, parse_size

MAXIMUM_LABEL = 16
"""Bytes of an ext4 label."""


class Spec(Table):
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
