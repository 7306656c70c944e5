"""The compiled agent: what it is, and that the same source makes the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINES = {"x86_64": 62, "aarch64": 183}
"""`e_machine` of the ELF header, by architecture."""


def build(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "hatch_build.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def built(root: Path, architecture: str) -> Path:
    done = build(root, architecture)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of all that the build reads, in another directory."""
    root = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "agent", root / "agent")
    for name in ("pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.mark.parametrize("architecture", MACHINES)
def test_static_and_small(architecture: str) -> None:
    path = built(ROOT, architecture)
    content = path.read_bytes()
    magic, kind, machine = struct.unpack_from("<4s12x2H", content)
    headers, size, count = struct.unpack_from("<Q14x2H", content, 32)
    programs = [struct.unpack_from("<I", content, headers + i * size)[0] for i in range(count)]
    executable, interpreter, dynamic = 2, 3, 2
    assert (magic, kind, machine) == (b"\x7fELF", executable, MACHINES[architecture])
    assert interpreter not in programs
    assert dynamic not in programs
    assert len(content) <= 3_500_000
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_same_bytes_in_another_directory(architecture: str, copied: Path) -> None:
    first, second = built(ROOT, architecture), built(copied, architecture)
    assert first != second
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    assert str(ROOT).encode() not in first.read_bytes()


def test_what_is_up_to_date_is_kept(copied: Path) -> None:
    binary = built(copied, "x86_64")
    before = binary.stat()
    kept = built(copied, "x86_64").stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with (copied / "agent" / "main.go").open("a") as file:
        file.write("\n// changed\n")
    assert built(copied, "x86_64").stat().st_ino != before.st_ino


def test_a_compiler_error_is_told_and_leaves_nothing(copied: Path) -> None:
    (copied / "agent" / "broken.go").write_text("package main\n\nfunc broken() { return 1 }\n")
    done = build(copied, "x86_64")
    assert done.returncode == 1
    assert "broken.go:3" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(copied / "src/bouvet/binaries") == []  # noqa: PTH208


def test_an_unknown_architecture() -> None:
    done = build(ROOT, "riscv64")
    assert done.returncode == 2
    assert "unknown architecture 'riscv64'" in done.stderr
