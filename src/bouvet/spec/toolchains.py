"""Toolchains that have layers of their own."""

from __future__ import annotations

from pydantic import Field

from bouvet.spec.values import Table, Version

RUST_PACKAGES = ("cargo-web", "rust-web-clippy", "rustc-web", "rustfmt-web")
"""Debian's stable Rust toolchain, kept current by security updates."""


class Node(Table):
    """Node.js and npm."""

    version: Version = Field("20", description="Node.js: the newest release with this prefix.")
    npm: Version = Field("11", description="npm: the newest release with this prefix that runs on it.")


class Rust(Table):
    """Rust at /usr/local/cargo/bin, from Debian's toolchain packages."""
