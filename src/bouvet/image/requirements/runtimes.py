"""The language runtimes and their environment."""

from __future__ import annotations

import functools
import json
import re

from bouvet.image.expectation import RUST_PACKAGES, Expectation
from bouvet.image.guest import Finding, Guest, Requirement, none_of, shell_words

AREA = "Runtimes"

RUST_BIN = "/usr/local/cargo/bin"
RUST_TOOLS = ("rustc", "cargo", "clippy-driver", "cargo-clippy", "rustfmt")
_RUST_VARIABLES = {"RUSTUP_HOME": "/usr/local/rustup", "CARGO_HOME": "/usr/local/cargo"}
_PYTHON_LIBRARY = "/usr/lib/python3.11"


def requirements(expected: Expectation) -> list[Requirement]:
    """Return the requirements of the runtimes that are expected."""
    python = {
        "python3": Requirement(AREA, "Python 3.11 at /usr/bin/python3", _python),
        "python3-pip": Requirement(AREA, "Python's pip", _pip),
        "python3-venv": Requirement(AREA, "Python's venv", _venv),
        "python3-dev": Requirement(AREA, "Python's headers", _python_headers),
        "python-is-python3": Requirement(AREA, "python links to python3", _python_link),
    }
    rows = [row for package, row in python.items() if package in expected.packages]
    if expected.node is not None:
        rows += [
            Requirement(AREA, f"Node.js {expected.node}.x at /usr/bin/node", _node),
            Requirement(AREA, "npm", functools.partial(_npm, command="npm")),
            Requirement(AREA, "npx", functools.partial(_npm, command="npx")),
        ]
    rows.append(Requirement(AREA, "Bash 5.2 at /bin/bash", _bash))
    if expected.rust:
        rows += [
            Requirement(AREA, "a stable Rust, all of one version", _rust_version)
            if RUST_PACKAGES[0] in expected.packages
            else Requirement(AREA, "a toolchain as rustup lays it out", _rust_toolchain),
            *(
                Requirement(AREA, f"{RUST_BIN}/{name}", functools.partial(_rust_tool, name=name))
                for name in RUST_TOOLS
            ),
            Requirement(AREA, "RUSTUP_HOME and CARGO_HOME, and Rust on PATH", _rust_environment),
        ]
    return [
        *rows,
        Requirement(
            AREA, "the environment of login shells", lambda guest: _as_expected(guest, _logins(guest))
        ),
        Requirement(AREA, "the environment of services", lambda guest: _as_expected(guest, _services(guest))),
    ]


def _python(guest: Guest) -> Finding:
    real, version = guest.executable("/usr/bin/python3"), guest.version("python3")
    return Finding(real == "/usr/bin/python3.11" and version.startswith("3.11."), f"{version} at {real}")


def _pip(guest: Guest) -> Finding:
    guest.executable("/usr/bin/pip3")
    guest.file("/usr/lib/python3/dist-packages/pip/__init__.py")
    return Finding(True, guest.version("python3-pip"))


def _venv(guest: Guest) -> Finding:
    guest.file(f"{_PYTHON_LIBRARY}/venv/__init__.py")
    guest.file(f"{_PYTHON_LIBRARY}/ensurepip/__init__.py")
    return Finding(True, guest.version("python3-venv"))


def _python_headers(guest: Guest) -> Finding:
    size = guest.file("/usr/include/python3.11/Python.h").size
    return Finding(size > 0, f"/usr/include/python3.11/Python.h, {size} bytes")


def _python_link(guest: Guest) -> Finding:
    link = guest.entry("/usr/bin/python")
    if link is None or not link.is_symlink:
        return Finding(False, "no such link")
    real = guest.real_path("/usr/bin/python")
    return Finding(real == guest.real_path("/usr/bin/python3"), real)


def _node(guest: Guest) -> Finding:
    guest.executable("/usr/bin/node")
    macros = dict(
        re.findall(
            r"(?m)^#define NODE_(MAJOR|MINOR|PATCH)_VERSION (\d{1,9})$",
            guest.text("/usr/include/node/node_version.h"),
        )
    )
    version = ".".join(macros.get(part, "?") for part in ("MAJOR", "MINOR", "PATCH"))
    return Finding(_is_release_of(version, guest.expected.node or ""), version)


def _npm(guest: Guest, *, command: str) -> Finding:
    real = guest.executable(f"/usr/bin/{command}")
    try:
        package = json.loads(guest.text("/usr/lib/node_modules/npm/package.json"))
        version = str(package["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Finding(False, "npm's package.json has no version")
    return Finding(_is_release_of(version, guest.expected.npm), f"{version} at {real}")


def _is_release_of(version: str, prefix: str) -> bool:
    return not prefix or version == prefix or version.startswith(prefix + ".")


def _bash(guest: Guest) -> Finding:
    guest.executable("/bin/bash")
    version = guest.version("bash")
    return Finding(version.startswith("5.2."), version)


def _rust_version(guest: Guest) -> Finding:
    versions = {guest.version(package).partition("+")[0] for package in RUST_PACKAGES}
    passed = len(versions) == 1 and all(re.fullmatch(r"1\.\d+\.\d+", version) for version in versions)
    return Finding(passed, ", ".join(sorted(versions)))


def _rust_toolchain(guest: Guest) -> Finding:
    home = _RUST_VARIABLES["RUSTUP_HOME"]
    found = re.search(
        r'^default_toolchain = "([A-Za-z0-9_.-]+)"$', guest.text(f"{home}/settings.toml"), re.MULTILINE
    )
    if found is None:
        return Finding(False, f"{home}/settings.toml names no default toolchain")
    records = f"{home}/toolchains/{found[1]}/lib/rustlib"
    components = guest.text(f"{records}/components").split()
    unrecorded = [name for name in components if not guest.exists(f"{records}/manifest-{name}")]
    guest.executable(f"{home}/toolchains/{found[1]}/bin/rustc")
    if not components or unrecorded:
        return Finding(False, f"not recorded: {', '.join(unrecorded) or 'any component'}")
    return Finding(True, f"{found[1]}: {', '.join(components)}")


def _rust_tool(guest: Guest, *, name: str) -> Finding:
    return Finding(True, guest.executable(f"{RUST_BIN}/{name}"))


def _rust_environment(guest: Guest) -> Finding:
    wrong = []
    for what, variables in (("login shells", _logins(guest)), ("services", _services(guest))):
        wrong += [
            f"{name} of {what}" for name, value in _RUST_VARIABLES.items() if variables.get(name) != value
        ]
        if RUST_BIN not in variables.get("PATH", "").split(":"):
            wrong.append(f"PATH of {what}")
    home = guest.entry(_RUST_VARIABLES["RUSTUP_HOME"])
    if home is None or not home.is_directory:
        wrong.append(_RUST_VARIABLES["RUSTUP_HOME"])
    return none_of(wrong) if wrong else Finding(True, "set for login shells and services")


def _as_expected(guest: Guest, variables: dict[str, str]) -> Finding:
    expected = {"PATH": ":".join(guest.expected.path), **dict(guest.expected.environment)}
    wrong = [
        f"{name}={variables.get(name, '(not set)')}"
        for name, value in expected.items()
        if variables.get(name) != value
    ]
    return Finding(not wrong, "; ".join(wrong or (f"{name}={variables[name]}" for name in expected)))


def _logins(guest: Guest) -> dict[str, str]:
    """Return what the scripts in /etc/profile.d export, in the order in which /etc/profile runs them."""
    variables = {}
    for path in sorted(path for path, _ in guest.files_below("/etc/profile.d") if path.endswith(".sh")):
        for line in re.findall(r"(?m)^export (.*)$", guest.text(path)):
            for word in shell_words(line):
                name, _, value = word.partition("=")
                variables[name] = value
    return variables


def _services(guest: Guest) -> dict[str, str]:
    """Return systemd's DefaultEnvironment (systemd-system.conf(5))."""
    variables: dict[str, str] = {}
    files = sorted(path for path, _ in guest.files_below("/etc/systemd/system.conf.d"))
    for path in ("/etc/systemd/system.conf", *(path for path in files if path.endswith(".conf"))):
        for line in re.findall(r"(?m)^DefaultEnvironment=(.*)$", guest.text(path)):
            words = shell_words(line)
            if not words:
                variables.clear()  # an empty assignment takes all before it back
            for word in words:
                name, _, value = word.replace("%%", "%").partition("=")
                variables[name] = value
    return variables
