"""What lies in the output directory after a build: the image and the agent."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bouvet.formats.ext4 import Ext4Reader
from tests.conftest import BuiltImage, build_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["base", "devbox"])
def preset(request: pytest.FixtureRequest) -> str:
    """A preset's name."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module")
def image(preset: str, request: pytest.FixtureRequest) -> BuiltImage:
    """The preset's image."""
    built = request.getfixturevalue(f"{preset}_image")
    assert isinstance(built, BuiltImage)
    return built


def sha256(path: Path) -> str:
    """Return a file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_an_image_that_is_up_to_date_takes_no_time(devbox_image: BuiltImage) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        assert build_image("devbox", devbox_image.path.parent) == devbox_image
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 2  # the machine may be busy with something else meanwhile


def test_the_agent_beside_an_image_is_the_one_in_it(image: BuiltImage) -> None:
    content = image.agent.read_bytes()
    with Ext4Reader(image.path) as reader:
        assert reader.read(b"usr/local/bin/bouvet-agent") == content
        assert reader.stat(b"usr/local/bin/bouvet-agent").mode & 0o7777 == 0o755
    assert image.agent.stat().st_mode & 0o7777 == 0o755
    assert len(content) <= 3_500_000


@pytest.mark.needs_tool("file")
def test_the_agent_is_static_and_for_the_images_architecture(image: BuiltImage) -> None:
    told = subprocess.run(["file", "--brief", image.agent], check=True, capture_output=True, text=True).stdout
    machine = {"x86_64": "x86-64", "aarch64": "ARM aarch64"}[platform.machine()]
    assert "statically linked" in told
    assert machine in told


def test_an_image_that_was_written_into_is_made_anew(base_image: BuiltImage, tmp_path: Path) -> None:
    for path in base_image.path.parent.iterdir():
        shutil.copy2(path, tmp_path)
    copy = tmp_path / base_image.path.name
    with copy.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"overwritten")
    assert sha256(copy) != sha256(base_image.path)
    build_image("base", tmp_path)
    assert sha256(copy) == sha256(base_image.path)
