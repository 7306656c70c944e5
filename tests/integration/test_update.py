"""A build over an earlier one's image: what differs is written, and the bytes are those of a whole one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from bouvet.packing import described_kernel
from tests.conftest import BuiltImage, build_image

pytestmark = [pytest.mark.needs_tool("mmdebstrap"), pytest.mark.slow]

CHANGE = ("--set", "system.hostname=changed")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def built(base_image: BuiltImage, tmp_path: Path) -> Path:
    """An image that a build has written here."""
    return build_image("base", tmp_path).path


@pytest.fixture(scope="module")
def changed(base_image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the changed image, written as a whole."""
    return digest(build_image("base", tmp_path_factory.mktemp("changed"), *CHANGE).path)


def test_a_changed_image_is_the_same_file_and_has_the_bytes_of_a_whole_one(
    built: Path, changed: str, base_image: BuiltImage
) -> None:
    inode = built.stat().st_ino
    build_image("base", built.parent, *CHANGE)
    assert built.stat().st_ino == inode
    assert digest(built) == changed
    build_image("base", built.parent)
    assert digest(built) == digest(base_image.path)


def test_who_has_the_image_open_keeps_what_it_was(built: Path, changed: str, base_image: BuiltImage) -> None:
    with built.open("rb") as machine:
        build_image("base", built.parent, *CHANGE)
        assert hashlib.file_digest(machine, "sha256").hexdigest() == digest(base_image.path)
    assert digest(built) == changed


@pytest.mark.parametrize("kind", ["touched", "copied", "linked"])
def test_an_image_that_is_not_as_it_was_written_is_replaced(built: Path, changed: str, kind: str) -> None:
    copy = built.with_name("copy")
    match kind:
        case "touched":
            with built.open("r+b") as file:
                file.seek(1 << 20)
                file.write(b"a guest's")
            os.utime(built, ns=(0, json.loads(built.with_suffix(".json").read_text())["image"]["mtime_ns"]))
        case "copied":
            shutil.copy2(built, copy)
            copy.replace(built)
        case "linked":
            copy.hardlink_to(built)
    inode = built.stat().st_ino
    build_image("base", built.parent, *CHANGE)
    assert built.stat().st_ino != inode
    assert digest(built) == changed


@pytest.mark.parametrize(
    "description", ["{", '{"written": {"state": [], "places": [[1]]}}', '{"written": 1}']
)
def test_a_description_that_says_nothing_is_no_obstacle(built: Path, changed: str, description: str) -> None:
    built.with_suffix(".json").write_text(description)
    build_image("base", built.parent, *CHANGE)
    assert digest(built) == changed


def test_the_description_names_the_kernel_that_boots_the_image(built: Path, tmp_path: Path) -> None:
    """What an image says of itself is its builder's word, and sends the host nowhere."""
    assert described_kernel(built) == "debian"
    built.with_suffix(".json").unlink()
    assert described_kernel(built) is None
