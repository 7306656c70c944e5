"""A spec to start with, as a user gets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bouvet.spec import load, starter


def init(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from bouvet.cli import main; main()", "init", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=directory,
    )


def test_a_spec_is_written_that_can_be_built(tmp_path: Path) -> None:
    done = init(tmp_path)
    assert (done.returncode, done.stdout) == (0, "bouvet.toml\n")
    assert (tmp_path / "bouvet.toml").read_text() == starter()
    assert load(str(tmp_path / "bouvet.toml")).node == load("devbox").node


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("mine")
    done = init(tmp_path, "own.toml")
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (tmp_path / "own.toml").read_text() == "mine"


def test_only_specs_are_written(tmp_path: Path) -> None:
    assert init(tmp_path, "own.txt").returncode == 2
    assert init(tmp_path, "missing/own.toml").returncode == 2
    assert list(tmp_path.iterdir()) == []
