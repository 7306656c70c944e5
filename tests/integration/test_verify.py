"""The images that are really built meet every requirement, and do not once they are tampered with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bouvet.image.verify import check_image
from bouvet.pipeline import verify_static
from bouvet.spec import load
from tests.conftest import BuiltImage


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["base", "devbox"])
def test_a_preset_s_image_meets_every_requirement(preset: str, request: pytest.FixtureRequest) -> None:
    image: BuiltImage = request.getfixturevalue(f"{preset}_image")
    report = verify_static(image.path, load(preset))
    assert report.failed == ()
    assert check_image(image.path).passed


@pytest.mark.needs_tool("debugfs")
@pytest.mark.parametrize(
    ("request_line", "requirement"),
    [
        ("rm /etc/fstab", "/etc/fstab"),
        ("rm /etc/systemd/system/multi-user.target.wants/bouvet-agent.service",
         "bouvet-agent.service enabled in multi-user.target.wants"),
        ("set_inode_field /usr/local/bin/bouvet-agent mode 0100700",
         "/usr/local/bin/bouvet-agent, mode 0755, owned by root"),
        ("symlink /etc/resolv.conf ../usr/lib/systemd/resolv.conf",
         "no name server of the build host in /etc/resolv.conf"),
    ],
)  # fmt: skip
def test_what_e2fsprogs_changes_is_found(
    base_image: BuiltImage, request_line: str, requirement: str, tmp_path: Path
) -> None:
    image = tmp_path / "image.ext4"
    shutil.copyfile(base_image.path, image)
    done = subprocess.run(
        ["debugfs", "-w", "-R", request_line, str(image)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == ""
    assert [row.requirement for row in check_image(image).failed] == [requirement]
