"""The rooms' import rules, read from the imports themselves."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "bouvet"

# What every room on the host may use.
ERRORS = {"bouvet.errors"}
EVENTS = ERRORS | {"bouvet.events"}
HOST = EVENTS | {"bouvet.process"}
# Two rooms get files from servers: those of layers, and kernels.
NETWORK = HOST | {"bouvet.download"}

ALLOWED: dict[str, set[str]] = {
    # The foundations.
    "errors": set(),
    "events": set(),
    "process": ERRORS,
    "download": ERRORS,
    # Bytes and messages know nothing of the host.
    "formats": ERRORS,
    "protocol": ERRORS,
    # What and how: plain data, no program is started (hence without `process`).
    "spec": EVENTS,
    "plan": EVENTS | {"bouvet.spec"},
    # Make, pack, boot, talk.
    "layers": NETWORK | {"bouvet.plan", "bouvet.formats"},
    "image": HOST | {"bouvet.formats", "bouvet.layers.merge"},
    # All of formats: the guest's kernel modules travel on a small ext4 disk, the initramfs is a cpio
    # archive, and the devices are virtio.
    "vm": NETWORK | {"bouvet.formats"},
    "sandbox": HOST | {"bouvet.protocol", "bouvet.vm.machine"},
    # The one module that joins the rooms, and its face.
    "pipeline": {"bouvet"},
    # Its part that makes layers, or finds them in the cache.
    "making": {"bouvet"},
    # Its part that writes for container tools: a finished image has to be read as one to boot is.
    "exporting": {"bouvet"},
    # Its part that reads finished images: a build's description tells what each layer takes.
    "inspecting": {"bouvet"},
    # Its end: a tree becomes a file, which the next build can tell from others.
    "packing": {"bouvet"},
    # Its half that boots: the command line's `build` need not load the machine room.
    "booting": {"bouvet"},
    # When a build's steps ran, by the events; and how such times are drawn.
    "step_timings": EVENTS,
    "timeline": ERRORS,
    # What a booted guest says of its boot.
    "boot_timings": {"bouvet.booting", "bouvet.sandbox"},
    "pictures": {"bouvet"},
    # What runs in a sandbox on the caller's terminal: it needs both.
    "running": {"bouvet"},
    # What images are made of, written down: it makes layers, and needs the kernels.
    "locking": {"bouvet"},
    # What it is asked for: a spec with the digests of all that makes its image.
    "order": {"bouvet"},
    # Why a build's steps run: it needs plans and the cache.
    "planning": {"bouvet"},
    "slimming": {"bouvet"},
    # The host's files that a spec names: read for the plan, copied by the layers.
    "own_content": ERRORS | {"bouvet.spec", "bouvet.plan", "bouvet.layers"},
    # What an image's rows are checked with in the guest: it needs both, the expectation and the sandbox.
    "guest_checks": {"bouvet"},
    "verifying": {"bouvet"},
    # A spec and a plan are data: what the command line fills in and prints.
    "cli": EVENTS
    | {
        "bouvet.pipeline",
        "bouvet.exporting",
        "bouvet.inspecting",
        "bouvet.boot_timings",
        "bouvet.booting",
        "bouvet.locking",
        "bouvet.pictures",
        "bouvet.planning",
        "bouvet.running",
        "bouvet.slimming",
        "bouvet.verifying",
        "bouvet.sandbox",
        "bouvet.spec",
        "bouvet.plan",
    },
}
"""Which of bouvet's modules each room may import beside its own; a name covers its submodules."""

HELPERS: dict[str, set[str]] = {"formats": {"google_crc32c"}, "protocol": set()}
"""The rooms that use the standard library alone, and the third-party packages that they may use besides."""

STARTS_A_PROGRAM = re.compile(
    r"subprocess\.(run|Popen|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawn\w*)|pty\.\w+|multiprocessing\.\w+"
)
"""Calls that only the module `process` may make. (`subprocess.Popen` as a type is no call.)"""


def room_of(path: Path, package: Path = PACKAGE) -> str:
    """Return the room that a source file belongs to: the package's part, or the module's name."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def imports_of(path: Path, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each import: `from bouvet import events` is `bouvet.events`."""
    parents = ("bouvet", *path.relative_to(package).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*parents[: len(parents) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # What is imported from a package may be one of its modules; from a module it is a name.
                yield node.lineno, f"{module}.{alias.name}" if module == "bouvet" else module


def calls_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call by a dotted name, such as `os.fork`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, ast.unparse(node.func)


def covered(name: str, allowed: set[str]) -> bool:
    """Return whether a module is one of the allowed, or inside one."""
    return any(name == one or name.startswith(one + ".") for one in allowed)


def violations(package: Path = PACKAGE) -> list[str]:
    """Return each import that breaks a rule, as `file:line: what`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        room = room_of(path, package)
        if str(where) == "__init__.py":
            continue  # the public names, from any room
        allowed = ALLOWED.get(room)
        if allowed is None:
            found.append(f"{where}: '{room}' is no room of the house")
            continue
        for line, name in imports_of(path, package):
            top = name.partition(".")[0]
            if top == "bouvet":
                fine = covered(name, allowed | {f"bouvet.{room}"})
                fine = fine and (room == "cli" or not covered(name, {"bouvet.cli"}))
            else:
                fine = room not in HELPERS or top in sys.stdlib_module_names or top in HELPERS[room]
            if not fine:
                found.append(f"{where}:{line}: {room} may not import {name}")
        if room != "process":
            calls = ((line, name) for line, name in calls_of(path) if STARTS_A_PROGRAM.fullmatch(name))
            found += [f"{where}:{line}: {room} may not call {name}" for line, name in calls]
    return found


def test_rooms_import_only_what_they_may() -> None:
    assert violations() == []


def test_inits_only_re_export() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text()).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            names = [ast.unparse(name) for name in node.targets] if isinstance(node, ast.Assign) else []
            is_public_name = names in (["__all__"], ["__version__"])
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            assert is_docstring or is_public_name or is_import, f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in PACKAGE.rglob("*")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("formats/ext4/writer.py", "import pydantic"),
        ("formats/ext4/writer.py", "from bouvet import process"),
        ("layers/debian.py", "import subprocess\nsubprocess.run(['true'])"),
        ("vm/qemu.py", "import os\nos.execv('/bin/true', [])"),
        ("formats/ext4/writer.py", "from ...layers import store"),
        ("plan/steps.py", "def late() -> None:\n    from bouvet.layers.store import Store"),
        ("image/ext4.py", "from bouvet.layers.store import Store"),
        ("layers/debian.py", "import bouvet.image.verify"),
        ("vm/qemu.py", "from bouvet.spec.model import Spec"),
        ("sandbox/client.py", "from bouvet.vm.qemu import QemuMachine"),
        ("pipeline.py", "from bouvet.cli import main"),
        ("cli/build.py", "from bouvet import process"),
        ("layers/debian.py", "from bouvet import build"),
        ("utensils/spoon.py", "import os"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source + "\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("formats/ext4/writer.py", "from .structs import Inode\nimport google_crc32c\nimport os.path"),
        ("layers/debian.py", "from bouvet import events, process\nfrom bouvet.plan.steps import Step"),
        ("vm/modules.py", "from bouvet.formats.ext4.writer import write"),
        ("pipeline.py", "from bouvet.vm.qemu import QemuMachine\nfrom bouvet import layers"),
        ("vm/vsock.py", "import subprocess\nprocess: subprocess.Popen[bytes]"),
        ("process.py", "import subprocess\nsubprocess.run(['true'])\nfrom bouvet.errors import ToolMissing"),
        ("__init__.py", "from bouvet.pipeline import build"),
    ],
)
def test_an_allowed_import_is_not_found(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source + "\n")
    assert violations(tmp_path) == []
