"""The checks inside a guest, as far as they can be seen without one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.guest_checks import GuestCheck, compare_machine_ids, guest_checks, one_line, own_check
from bouvet.image.expectation import DEVBOX, UNKNOWN_PASSWORD, Expectation, OwnTest
from bouvet.image.report import Report
from bouvet.spec import Spec
from bouvet.verifying import GuestReport
from bouvet.vm.machine import BootTimings

CHECKS = guest_checks(DEVBOX, disk_size=1 << 30)
BARE = Expectation(packages=frozenset(), node=None, rust=False, agent=False, environment=())


def runs(program: str) -> bool:
    done = subprocess.run(["sh", "-c", program], check=False, capture_output=True, timeout=60)
    return done.returncode == 0


def named(checks: list[GuestCheck], requirement: str) -> GuestCheck:
    (found,) = (check for check in checks if check.requirement == requirement)
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.requirement)
def test_each_check_is_a_program_for_the_posix_shell(check: GuestCheck) -> None:
    done = subprocess.run(["sh", "-n", "-c", check.program], check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_each_requirement_is_named_once() -> None:
    names = [(check.area, check.requirement) for check in CHECKS]
    assert len(set(names)) == len(names)


def test_what_an_image_does_not_have_is_not_asked_for() -> None:
    areas = [check.area for check in guest_checks(BARE, disk_size=1)]
    assert "Running tools" not in areas
    assert areas.count("Running programs") == 1  # Bash, which every Debian has


def test_the_password_is_compared_with_the_hash(tmp_path: Path) -> None:
    def check(password: str | None, field: str) -> bool:
        expected = Expectation(root_password=password)
        (found,) = (c for c in guest_checks(expected, disk_size=1) if c.requirement.startswith("root"))
        shadow = tmp_path / "shadow"
        shadow.write_text(f"daemon:*:1:::::\nroot:{field}:1:::::\n")
        return runs(found.program.replace("/etc/shadow", str(shadow)))

    # Made by `openssl passwd -6 -salt salt root`.
    hashed = "$6$salt$qmvfrgAF.JOiI.LeVZf55uev6dXyfh3OUw7DGwrxMTs/lkg.usnI9U2DuOywM5BYt.eJpyJ4thsDc/J8xzzca."
    assert check("root", hashed)
    assert not check("other", hashed)
    assert not check("root", "*")
    assert check(UNKNOWN_PASSWORD, hashed)
    assert not check(UNKNOWN_PASSWORD, "")
    assert check(None, "!")
    assert check(None, "*")
    assert not check(None, hashed)
    assert not check(None, "")


def test_a_host_name_is_no_shell_code(tmp_path: Path) -> None:
    hostile = Expectation(hostname=f"$(touch {tmp_path}/made)'; touch {tmp_path}/made #")
    assert not runs(named(guest_checks(hostile, disk_size=1), "host name, which resolves").program)
    assert not runs(f"ls {tmp_path}/made")


def test_what_a_guest_says_is_one_printable_line_of_bounded_length() -> None:
    assert one_line(" a\x1b[2J\nb\u202ec ") == "a [2J b c"
    assert len(one_line("x" * 100_000)) == 200


@pytest.mark.parametrize(
    ("first", "second", "passed"),
    [
        ("0" * 32, "1" * 32, True),
        ("0" * 32, "0" * 32, False),
        ("uninitialized", "1" * 32, False),
        ("", "1" * 32, False),
    ],
)
def test_machine_ids(first: str, second: str, passed: bool) -> None:
    assert compare_machine_ids(first, second).passed is passed


def test_timings_beside_their_budget() -> None:
    timings = BootTimings(kernel=0.04, handover=None, answer=0.4)
    lines = GuestReport(Report("image", ()), timings).timing_lines()
    assert [line.split()[-4:] for line in lines[1:]] == [
        ["0.040", "s", "0.050", "s"],
        ["not", "seen", "0.250", "s"],
        ["0.400", "s", "0.500", "s"],
    ]


@pytest.mark.parametrize(
    ("run", "status", "output", "passed"),
    [
        ("echo answer 42; echo more", 0, "^answer [0-9]+$", True),
        ("echo answer", 0, "^answer [0-9]+$", False),
        ("echo oops >&2; exit 3", 3, "oops", True),
        ("exit 3", 0, None, False),
        ("true", 3, None, False),
        ("printf '%s' \"it's\"", 0, "it's", True),
        ("echo -n x", 0, "-x|x", True),
        ("cat", 0, None, True),
    ],
)
def test_an_images_own_test(run: str, status: int, output: str | None, passed: bool) -> None:
    assert runs(own_check(OwnTest("name", run, status, output)).program) is passed


def test_own_tests_come_from_the_spec_and_from_a_manifest() -> None:
    data = {"test": {"commands": [{"name": "answers", "run": "answer", "expect_output": "42"}]}}
    spec = Spec.model_validate(
        data | {"apt": {"add": ["jq"], "remove": ["nano"]}, "debian": {"packages": ["nano"]}}
    )
    expected = Expectation.from_spec(json.loads(json.dumps(spec.model_dump(mode="json"))), None)
    assert expected.tests == (OwnTest("answers", "answer", 0, "42"),)
    assert expected.packages == {"jq"}
    assert [c.requirement for c in guest_checks(expected, disk_size=1)][-1] == "answers"


@pytest.mark.parametrize("commands", [{}, [1], [{"name": 1}], [{"name": "x", "run": "x"}], [{}] * 2000])
def test_damaged_tests_of_a_manifest_are_refused(commands: object) -> None:
    data = Spec().model_dump(mode="json") | {"test": {"commands": commands}}
    with pytest.raises(FormatError):
        Expectation.from_spec(data, None)
