"""Each boundary tree, through every oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet.formats.tree import FileTree
from tests.formats.ext4 import oracles, trees

boundaries = pytest.mark.parametrize("make_tree", trees.BOUNDARIES, ids=lambda make: make.__name__)


@boundaries
@pytest.mark.needs_tool("e2fsck")
def test_e2fsck_finds_nothing_to_say(tmp_path: Path, make_tree: Callable[[], FileTree]) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, make_tree())
    oracles.check_fsck(image)


@boundaries
def test_the_reader_finds_what_was_written(tmp_path: Path, make_tree: Callable[[], FileTree]) -> None:
    image, tree = tmp_path / "image", make_tree()
    oracles.make_image(image, tree)
    oracles.check_reader(image, tree)


@boundaries
@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_the_kernel_finds_what_was_written(tmp_path: Path, make_tree: Callable[[], FileTree]) -> None:
    image, tree = tmp_path / "image", make_tree()
    oracles.make_image(image, tree)
    oracles.check_kernel(image, tree)
