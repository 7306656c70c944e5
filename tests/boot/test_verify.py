"""Presets' images meet every requirement when they run, and what does not is told."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bouvet import guest_checks
from bouvet.booting import BootOptions, boot
from bouvet.image.verify import manifest_expectation
from bouvet.sandbox import Sandbox
from tests.conftest import USER_CACHE, BuiltImage

pytestmark = [pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap"), pytest.mark.slow]

SECONDS_TO_BOOT = 240.0
SECONDS_TO_VERIFY = 900.0
IN_THE_GUEST = {"Booted system", "Running programs", "Running tools"}


@pytest.fixture(autouse=True)
def _kernels_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is downloaded once, and not for each run of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(USER_CACHE))


@pytest.fixture
def running(base_image: BuiltImage, _kernels_of_the_user: None) -> Iterator[Sandbox]:
    with boot(base_image.path, BootOptions(ready=SECONDS_TO_BOOT)) as sandbox:
        yield sandbox


@pytest.mark.parametrize(("preset", "in_the_guest"), [("base", 14), ("devbox", 46)])
def test_a_preset_s_image_meets_every_requirement_when_it_runs(
    preset: str, in_the_guest: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    image: BuiltImage = request.getfixturevalue(f"{preset}_image")
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [Path(sys.executable).with_name("bouvet"), "verify", "--json", "--junit", report, image.path],
        env={**os.environ, "TERM": "dumb"},
        check=False,
        capture_output=True,
        timeout=SECONDS_TO_VERIFY,
    )
    found = json.loads(done.stdout)
    assert [row for row in found["rows"] if not row["passed"]] == []
    assert (done.returncode, found["passed"]) == (0, True)
    assert len([row for row in found["rows"] if row["area"] in IN_THE_GUEST]) >= in_the_guest
    assert None not in found["timings"].values()
    suites = ET.parse(report).getroot()
    assert len(list(suites.iter("testcase"))) == len(found["rows"])
    assert list(suites.iter("failure")) == []


def test_what_a_running_guest_does_not_meet_is_told(running: Sandbox, base_image: BuiltImage) -> None:
    """Each check of an expectation that the image contradicts fails, and so does a failed unit."""
    expected = dataclasses.replace(
        manifest_expectation(base_image.path),
        hostname="another",
        root_password="another",
        path=("/bin",),
        environment=(("MISSING", "1"),),
        packages=frozenset({"git"}),
        node="20",
        rust=True,
    )
    assert guest_checks.check_state(running, timeout=SECONDS_TO_BOOT).passed
    rows = guest_checks.check_guest(
        running,
        guest_checks.guest_checks(expected, disk_size=1 << 40),
        done=lambda _row, _fraction: None,
    )
    passed = {row.requirement for row in rows if row.passed}
    assert passed == {
        "/ is /dev/vda, mounted read-write as fstab says",
        "the agent's unit is active",
        "Bash 5.2",
    }
    running.write_file("/run/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n")
    running.run("systemctl start broken; until systemctl is-failed broken; do sleep 0.05; done")
    broken = guest_checks.check_state(running, timeout=SECONDS_TO_BOOT)
    assert not broken.passed
    assert "degraded broken.service" in broken.found
