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


MAXIMUM_TESTS = 1000
"""The most tests that an image may have of its own."""


@dataclass(frozen=True, slots=True)
class OwnTest:
    """A command that an image's spec wants to be right in the booted guest.

    Attributes:
        name: The requirement.
        run: The command, for `sh -c`.
        status: The exit status that is right, 0 to 255.
        output: An extended regular expression that a line of its output matches; None for any output.
    """

    name: str
    run: str
    status: int
    output: str | None


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
        container: Whether it starts with a container image, of whatever distribution.
        tests: The image's own tests.
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
    container: bool = False
    tests: tuple[OwnTest, ...] = ()

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
        environment = dict(_typed(system, "environment", dict))
        if isinstance(locale := system.get("locale"), str):
            environment["LANG"] = locale
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
            packages=_packages(debian, spec.get("apt")) | frozenset(_toolchain_packages(spec)),
            mirror=None if debian.get("mirror") is None else _typed(debian, "mirror", str),
            node=None if node is None else _typed(node, "version", str),
            npm="" if node is None or node.get("npm") is None else _typed(node, "npm", str),
            rust=spec.get("rust") is not None,
            agent=_typed(spec, "agent", bool),
            container=spec.get("from") is not None,
            tests=_tests(spec.get("test")),
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


def _packages(debian: Mapping[str, Any], apt: object) -> frozenset[str]:
    """Return the packages that a spec asks for: those of the tree, and what apt adds and removes."""
    found = set(map(str, _typed(debian, "packages", list)))
    if isinstance(apt, dict):
        found = (found | set(map(str, _typed(apt, "add", list)))) - set(map(str, _typed(apt, "remove", list)))
    return frozenset(found)


def _tests(table: object) -> tuple[OwnTest, ...]:
    """Return a spec's own tests; a spec of before there were any has none."""
    rows = _typed(table, "commands", list) if isinstance(table, dict) else []
    if len(rows) > MAXIMUM_TESTS or not all(isinstance(row, dict) for row in rows):
        raise FormatError("the spec's 'test.commands' is not as it must be")
    return tuple(
        OwnTest(
            _typed(row, "name", str),
            _typed(row, "run", str),
            _typed(row, "expect_status", int),
            None if row.get("expect_output") is None else _typed(row, "expect_output", str),
        )
        for row in rows
    )


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
