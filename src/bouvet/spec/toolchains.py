"""Toolchains that have layers of their own, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from bouvet.spec.packages import ARMORED_KEY
from bouvet.spec.values import Lines, Table, Version, matching

RUST_PACKAGES = ("cargo-web", "rust-web-clippy", "rustc-web", "rustfmt-web")
"""Debian's stable Rust toolchain, kept current by security updates."""

_URL = re.compile(r"https?://[^\s/\[\]#?]+(/[^\s\[\]#?]*)?")
_FINGERPRINT = re.compile(r"([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})")
_CHANNEL = re.compile(r"(stable|beta|nightly)(-\d{4}-\d{2}-\d{2})?|\d+\.\d+(\.\d+)?")
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

# Which keys mean something for which source, beside `source` itself.
_NODE_KEYS = {
    "npm": {"version", "npm"},
    "nodejs.org": {"version", "server"},
    "nodesource": {"version", "server", "key", "fingerprint"},
}
_RUST_KEYS: dict[str, set[str]] = {"debian": set(), "rustup": {"channel", "components", "server"}}

Url = Annotated[str, matching(_URL, "URL; it begins with http:// or https://")]


def is_url(key: str) -> bool:
    """Return whether a key is to be downloaded, and is no path or text."""
    return _URL.fullmatch(key) is not None


def _key(value: str) -> str:
    path = bool(value) and "\n" not in value and "://" not in value
    if not (is_url(value) or path or value.strip().startswith(ARMORED_KEY)):
        raise ValueError(f"is no key: a URL, a path, or text that begins with '{ARMORED_KEY}'")
    return value


class Node(Table):
    """Node.js and npm."""

    source: Literal["npm", "nodejs.org", "nodesource"] = Field(
        "npm",
        description="Packages of the npm registry, archives of nodejs.org, or NodeSource's Debian packages.",
    )
    version: Version = Field("20", description="Node.js: the newest release with this prefix.")
    npm: Version | None = Field(
        None,
        description="npm: the newest release with this prefix that runs on it, 11 if not set. Other sources "
        "than 'npm' have npm with Node.js.",
    )
    server: Url | None = Field(
        None,
        description="For 'nodejs.org' a mirror of its 'dist' directory; for 'nodesource' the archive.",
    )
    key: Annotated[Lines, AfterValidator(_key)] | None = Field(
        None,
        description="The key that signs NodeSource's archive: a URL, a file's path, or the armored text.",
    )
    fingerprint: Annotated[str, matching(_FINGERPRINT, "fingerprint: 40 hexadecimal digits")] | None = Field(
        None, description="The fingerprint of that key."
    )


class Rust(Table):
    """Rust at /usr/local/cargo/bin."""

    source: Literal["debian", "rustup"] = Field(
        "debian", description="Debian's security-updated toolchain, or rustup with one of its toolchains."
    )
    channel: Annotated[
        str,
        matching(_CHANNEL, "channel: stable, beta, nightly, each with an optional -YYYY-MM-DD, or a version"),
    ] = Field("stable", description="For 'rustup': the toolchain.")
    components: tuple[Annotated[str, matching(_COMPONENT, "component's name, for example 'clippy'")], ...] = (
        Field(
            ("clippy", "rustfmt"),
            description="For 'rustup': components beside those of the profile 'minimal', by the names that "
            "'rustup component add' takes.",
            strict=False,
        )
    )
    server: Url | None = Field(
        None, description="For 'rustup': the distribution server; the official one if not set."
    )


def toolchain_contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go together in the tables `node` and `rust` of a spec's data, valid or not."""
    for name, model, keys in (("node", Node, _NODE_KEYS), ("rust", Rust, _RUST_KEYS)):
        table = data.get(name)
        if not isinstance(table, Mapping):
            continue
        source = table.get("source", model.model_fields["source"].default)
        meant = keys.get(source) if isinstance(source, str) else None
        for key in sorted(set(model.model_fields) - {"source"} - meant) if meant is not None else ():
            # A spec that is printed with its defaults can be read again.
            value = tuple(table[key]) if isinstance(table.get(key), list) else table.get(key)
            if value not in {None, model.model_fields[key].default}:
                yield f"{name}.{key}: means nothing with {name}.source = '{source}'"
    node = data.get("node")
    if isinstance(node, Mapping) and node.get("source") == "nodesource":
        missing = [key for key in ("server", "key", "fingerprint") if node.get(key) is None]
        if missing:
            yield f"node: needs {', '.join(missing)} with node.source = 'nodesource'"
