"""What an image is checked against: the features that its spec asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from bouvet.errors import FormatError

RUST_PACKAGES = ("cargo-web", "rust-web-clippy", "rustc-web", "rustfmt-web")
"""Debian's Rust, which an image has whose spec does not say another source."""

ARCHITECTURES = ("x86_64", "aarch64")
"""The architectures an image can be for."""

MAXIMUM_PATH = 64
"""The most directories of PATH: an image's own manifest is no more to be trusted than its files."""

UNKNOWN_PASSWORD = "(set)"  # noqa: S105  (what a manifest says instead of the password)
"""Stands for a password that is set, and not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The features of an image; the defaults, and `DEVBOX`, are the full devbox.

    Attributes:
        architecture: `x86_64` or `aarch64`; None for either, as long as all programs agree.
        label: The file system's label.
        hostname: The host name.
        root_password: In clear text; `UNKNOWN_PASSWORD` for any; None for a locked account.
        network: Whether eth0 takes its address by DHCP.
        path: The directories of PATH.
        environment: Further variables, as (name, value), sorted.
        packages: The Debian packages that were asked for, those that toolchains consist of among them.
        mirror: The mirror that was asked for; None for Debian's own.
        node: Node.js's version or the beginning of one; None for no Node.js.
        npm: npm's version or the beginning of one.
        rust: Whether there is Rust.
        agent: Whether there is the guest agent.
    """

    architecture: str | None = None
    label: str = "bouvet-rootfs"
    hostname: str = "bouvet"
    root_password: str | None = "root"  # noqa: S105  (the documented one, known to everybody)
    network: bool = True
    path: tuple[str, ...] = (
        "/usr/local/cargo/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
    )  # fmt: skip
    environment: tuple[tuple[str, str], ...] = (
        ("CARGO_HOME", "/usr/local/cargo"), ("RUSTUP_HOME", "/usr/local/rustup"),
    )  # fmt: skip
    packages: frozenset[str] = frozenset((
        "build-essential", "ca-certificates", "cargo-web", "clang-22", "cmake", "curl", "dnsutils", "gdb",
        "git", "htop", "ifupdown", "iproute2", "iputils-ping", "isc-dhcp-client", "jq", "less", "nano",
        "openssh-client", "pkg-config", "python-is-python3", "python3", "python3-dev", "python3-pip",
        "python3-venv", "rsync", "rust-web-clippy", "rustc-web", "rustfmt-web", "shellcheck", "strace",
        "tree", "unzip", "vim", "wget", "xz-utils", "zip",
    ))  # fmt: skip
    mirror: str | None = None
    node: str | None = "20"
    npm: str = ""
    rust: bool = True
    agent: bool = True

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], architecture: str | None) -> Self:
        """Return what a spec asks for.

        Args:
            spec: The spec as JSON has it, with every default filled in.
            architecture: The image's architecture, None if it is not known.

        Raises:
            FormatError: It is no such spec.
        """
        if architecture is not None and architecture not in ARCHITECTURES:
            raise FormatError(f"the architecture {architecture!r} is not known")
        debian, system = _typed(spec, "debian", dict), _typed(spec, "system", dict)
        node = spec.get("node")
        if node is not None and not isinstance(node, dict):
            raise FormatError("the spec's 'node' is not a table")
        environment = _typed(system, "environment", dict)
        password = system.get("root_password")
        path = tuple(map(str, _typed(system, "path", list)))
        if len(path) > MAXIMUM_PATH or not all(_is_directory_name(name) for name in path):
            raise FormatError("the spec's 'path' is no list of directories")
        return cls(
            architecture=architecture,
            label=_typed(spec, "label", str),
            hostname=_typed(system, "hostname", str),
            root_password=None if password is None else _typed(system, "root_password", str),
            network=_typed(system, "network", bool),
            path=path,
            environment=tuple(sorted((name, _typed(environment, name, str)) for name in environment)),
            packages=frozenset({*map(str, _typed(debian, "packages", list)), *_toolchain_packages(spec)}),
            mirror=None if debian.get("mirror") is None else _typed(debian, "mirror", str),
            node=None if node is None else _typed(node, "version", str),
            npm="" if node is None or node.get("npm") is None else _typed(node, "npm", str),
            rust=spec.get("rust") is not None,
            agent=_typed(spec, "agent", bool),
        )

    def differences(self, other: Expectation) -> list[str]:
        """Return the names of the features in which another expectation contradicts this one.

        An unknown architecture contradicts none, nor does a password that is not told contradict one.
        """
        mine, theirs = self, other
        if None in {mine.architecture, theirs.architecture}:
            mine, theirs = replace(mine, architecture=None), replace(theirs, architecture=None)
        if UNKNOWN_PASSWORD in {mine.root_password, theirs.root_password} and (
            None not in {mine.root_password, theirs.root_password}
        ):
            mine, theirs = replace(mine, root_password=None), replace(theirs, root_password=None)
        return [name for name in self.__slots__ if getattr(mine, name) != getattr(theirs, name)]


DEVBOX = Expectation()
"""Everything that an image can have."""


def _is_directory_name(name: str) -> bool:
    return name.startswith("/") and name.isprintable() and len(name) <= 4096


def _typed(table: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value = table.get(key)
    if not isinstance(value, kind):
        raise FormatError(f"the spec's '{key}' is not as it must be")
    return value


def _toolchain_packages(spec: Mapping[str, Any]) -> tuple[str, ...]:
    rust, node = spec.get("rust"), spec.get("node")
    found = RUST_PACKAGES if isinstance(rust, Mapping) and rust.get("source", "debian") == "debian" else ()
    nodesource = isinstance(node, Mapping) and node.get("source") == "nodesource"
    return (*found, *(("nodejs",) if nodesource else ()))
