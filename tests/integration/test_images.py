"""The images that the presets make from real packages, as `make rootfs` does."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import BLOCK
from tests.conftest import BuiltImage, build_image
from tests.formats.ext4 import oracles

pytestmark = pytest.mark.slow

FREE = 64 << 20
"""Bytes of free space that an image has where its spec asks for nothing else."""

LARGEST_OVERHEAD = 0.015
"""What an image may add to its files' bytes, rounded up to blocks, as a share of them."""


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


@pytest.mark.needs_tool("e2fsck")
def test_e2fsck_has_nothing_to_say(image: BuiltImage) -> None:
    oracles.check_fsck(image.path)


def test_an_image_that_is_up_to_date_is_left_alone(preset: str, image: BuiltImage) -> None:
    before = image.path.stat()
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        assert build_image(preset, image.path.parent) == image
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 2  # the machine may be busy with something else meanwhile
    assert (image.path.stat().st_ino, image.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_layers_make_the_same_bytes_anywhere(preset: str, image: BuiltImage, tmp_path: Path) -> None:
    again = build_image(preset, tmp_path)
    assert sha256(again.path) == sha256(image.path)


def test_little_is_added_to_the_files_bytes(devbox_image: BuiltImage) -> None:
    """In a large image: a journal of 4 MiB and a directory's block weigh more in a small one."""
    image = devbox_image
    with Ext4Reader(image.path) as reader:
        inodes = {id(inode): inode for inode in reader.tree().values()}.values()
        data = sum(-(-inode.size // BLOCK) * BLOCK for inode in inodes if inode.is_regular)
    assert image.path.stat().st_size == image.size
    overhead = (image.size - FREE - data) / data
    assert 0 < overhead <= LARGEST_OVERHEAD, f"{overhead:.2%}"


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


@pytest.mark.needs_tool("e2fsck")
def test_a_size_that_is_too_small_is_refused_and_the_one_told_is_enough(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        build_image("base", tmp_path, "--size", "16M")
    [told] = re.findall(r"the content needs (\d+) bytes", str(caught.value))
    assert list(tmp_path.iterdir()) == []
    built = build_image("base", tmp_path, "--size", told)
    assert built.path.stat().st_size == int(told)
    oracles.check_fsck(built.path)


def test_an_output_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssertionError, match="bouvet: "):
        build_image("base", tmp_path / "file" / "output")
    assert (tmp_path / "file").read_text() == "in the way"


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
