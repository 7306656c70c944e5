"""Images are told apart by their superblocks, whatever their names say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bouvet.formats.ext4 import Ext4Options, plan_filesystem, write_filesystem
from bouvet.formats.filesystems import IDENTIFYING, identify_filesystem, read_only_filesystem
from tests.conftest import TOOL_PATH


def test_an_ext4_is_known(tmp_path: Path) -> None:
    image = tmp_path / "image.squashfs"
    with image.open("xb") as file:
        write_filesystem(plan_filesystem({}, Ext4Options(free=1 << 20)), file.fileno())
    assert identify_filesystem(image.read_bytes()[:IDENTIFYING]) == "ext4"
    assert read_only_filesystem(image) is None


@pytest.mark.needs_tool("mksquashfs", "mkfs.erofs")
@pytest.mark.parametrize(
    ("filesystem", "command"),
    [("squashfs", "mksquashfs source image -quiet -no-progress"), ("erofs", "mkfs.erofs image source")],
)
def test_what_other_programs_write_is_known(tmp_path: Path, filesystem: str, command: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    subprocess.run(
        command.split(), cwd=tmp_path, env={"PATH": TOOL_PATH}, check=True, capture_output=True, timeout=30
    )
    assert read_only_filesystem(tmp_path / "image") == filesystem


@pytest.mark.parametrize("beginning", [b"", b"hsq", bytes(IDENTIFYING), b"QFI\xfb" + bytes(IDENTIFYING)])
def test_anything_else_is_not(beginning: bytes, tmp_path: Path) -> None:
    assert identify_filesystem(beginning) is None
    (tmp_path / "image").write_bytes(beginning)
    assert read_only_filesystem(tmp_path / "image") is None
    assert read_only_filesystem(tmp_path / "missing") is None
