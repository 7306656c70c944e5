"""`bouvet diff`: lines, JSON and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bouvet.formats.tree import regular_file
from tests.unit.image.package_tree import TIME, package_tree, write_image

COMMAND = [sys.executable, "-c", "from bouvet.cli import main; main()", "diff"]


def diff(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [*COMMAND, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_image(tmp_path / "first.ext4", package_tree())


@pytest.fixture
def second(tmp_path: Path) -> Path:
    tree = package_tree()
    del tree[b"usr/local/bin/a,b"]
    tree[b"opt/\x1b[2J"] = regular_file(b"x")
    tree[b"opt/own"] = regular_file(b"new", mode=0o600, mtime=TIME * 10**9)
    status = tree[b"var/lib/dpkg/status"].content().replace(b"23.0", b"23.1")
    tree[b"var/lib/dpkg/status"] = regular_file(status, mtime=TIME * 10**9)
    return write_image(tmp_path / "second.ext4", tree)


def test_no_difference(first: Path) -> None:
    done = diff(first, first)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_differences(first: Path, second: Path) -> None:
    done = diff(first, second)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "~ deb python3-pip 23.0 -> 23.1",
        "+ /opt/?[2J",
        "~ /opt/own: content, mode",
        "- /usr/local/bin/a,b",
        "~ /var/lib/dpkg/status: content",
    ]
    done = diff(first, second, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["removed"] == ["/usr/local/bin/a,b"]
    assert json.loads(done.stdout)["equal"] is False


def test_trouble_is_no_difference(first: Path, tmp_path: Path) -> None:
    assert diff(first, tmp_path / "missing").returncode == 7
    (tmp_path / "damaged").write_bytes(first.read_bytes()[:5000])
    done = diff(first, tmp_path / "damaged")
    assert done.returncode == 8
    assert "Traceback" not in done.stderr
    assert diff(first).returncode == 2
