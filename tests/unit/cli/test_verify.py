"""`bouvet verify`: rows, exit status and machine-readable forms."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bouvet.formats.tree import regular_file
from tests.unit.image.devbox_tree import devbox_tree, write_image

COMMAND = [sys.executable, "-c", "from bouvet.cli import main; main()", "verify"]
REQUIREMENTS = 87
ESCAPE = "\x1b[2J"


def verify(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [*COMMAND, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_image(tmp_path / "good.ext4", devbox_tree())


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    tree = devbox_tree()
    tree[b"etc/fstab"] = regular_file(f"/dev/sda1 {ESCAPE}<&>\n".encode())
    return write_image(tmp_path / "bad.ext4", tree)


def test_a_good_image(good: Path) -> None:
    done = verify("--static", good)
    assert (done.returncode, done.stderr) == (0, "")
    *rows, summary = done.stdout.splitlines()
    assert len(rows) == REQUIREMENTS
    assert all(row.startswith("ok ") for row in rows)
    assert summary == f"{good}: all {REQUIREMENTS} requirements are met"


def test_a_read_only_file_system_is_not_checked_without_a_boot(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"hsqs" + bytes(4096))
    done = verify("--static", tmp_path / "image")
    assert (done.returncode, done.stdout) == (8, "")
    assert "holds a squashfs, whose files are not read" in done.stderr


def test_a_bad_image_is_told_from_a_good_one_by_status_and_marks(bad: Path) -> None:
    done = verify("--static", bad)
    assert done.returncode == 9
    assert [row for row in done.stdout.splitlines() if not row.startswith("ok ")] == [
        row for row in done.stdout.splitlines() if row.startswith("FAIL  Base") and "/etc/fstab" in row
    ]
    assert done.stdout.count("FAIL") == 1
    assert f"1 of {REQUIREMENTS} requirements are not met" in done.stderr
    assert "/dev/sda1" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_json(good: Path, bad: Path) -> None:
    for image, passed in ((good, True), (bad, False)):
        found = json.loads(verify("--static", "--json", image).stdout)
        assert (found["image"], found["passed"]) == (str(image), passed)
        assert [row["requirement"] for row in found["rows"] if not row["passed"]] == ["/etc/fstab"] * (
            not passed
        )
        assert set(found["rows"][0]) == {"area", "requirement", "passed", "found"}


def test_junit(bad: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.xml"
    assert verify("--static", "--junit", target, bad).returncode == 9
    (suite,) = ET.parse(target).getroot()
    assert (suite.get("tests"), suite.get("failures")) == (str(REQUIREMENTS), "1")
    (failed,) = (case for case in suite if case.find("failure") is not None)
    assert (failed.get("classname"), failed.get("name")) == ("Base", "/etc/fstab")
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "/dev/sda1 ?[2J<&>"


def test_a_report_that_cannot_be_written_is_an_error(good: Path, tmp_path: Path) -> None:
    done = verify("--static", "--junit", tmp_path / "missing" / "report.xml", good)
    assert done.returncode == 7
    assert "cannot write" in done.stderr


def test_another_spec_than_the_image_was_built_from(good: Path) -> None:
    done = verify("--static", "--spec", "base", "--json", good)
    assert done.returncode == 9
    failed = {row["requirement"] for row in json.loads(done.stdout)["rows"] if not row["passed"]}
    assert "tells what the image was made from" in failed


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--static", "missing.ext4"], 7, "there is no image"),
        (["--static", "--spec", "devbx", "missing.ext4"], 2, "devbox"),
        (["--static", sys.executable], 8, "no ext4"),
    ],
)
def test_what_cannot_be_verified(arguments: list[str], status: int, said: str) -> None:
    done = verify(*arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_it_is_a_table(bad: Path) -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [*COMMAND, "--static", str(bad)], stdout=child, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.close(child)
        shown = b""
        try:
            while piece := os.read(parent, 1 << 16):
                shown += piece
        except OSError:
            pass  # the terminal's other side is closed
        os.close(parent)
        assert process.wait(timeout=60) == 9
    assert b"requirement" in shown
    assert shown.count(b"FAIL") == 1
    assert ESCAPE.encode() not in shown
