"""The agent for the other architecture, run by QEMU's user-mode emulator, answers as the vectors say."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.conftest import ROOT
from tests.protocol.test_vectors import play, vectors

FOREIGN = "x86_64" if platform.machine() == "aarch64" else "aarch64"
EMULATOR = f"qemu-{FOREIGN}-static"

pytestmark = pytest.mark.needs_tool("qemu-aarch64-static", "qemu-x86_64-static")


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that is the agent of the other architecture."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "hatch_build.py"), FOREIGN], stdout=subprocess.PIPE, check=True
    )
    emulator = shutil.which(EMULATOR)
    assert emulator is not None
    program = tmp_path_factory.mktemp("foreign") / "agent"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([emulator, done.stdout.decode().strip()])} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("vector", vectors())
def test_vector(vector: dict[str, Any], connection: Any, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    play(vector, connection, str(directory))


def test_it_is_the_other_architecture_s(binary: Path) -> None:
    words = shlex.split(binary.read_text().splitlines()[1])
    header = Path(words[2]).read_bytes()[:20]
    assert int.from_bytes(header[18:], "little") == {"x86_64": 62, "aarch64": 183}[FOREIGN]
