"""What is read of a directory that a hostile tree could write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.layers.left_files import read_left


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_left(tmp_path / "file", 5) == b"12345"
    with pytest.raises(LayerError, match="larger than 4 bytes"):
        read_left(tmp_path / "file", 4)
    with pytest.raises(FileNotFoundError):
        read_left(tmp_path / "none")


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_nothing_but_files_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "of the host").write_bytes(b"secret")
    path = tmp_path / "left"
    match kind:
        case "link":
            path.symlink_to(tmp_path / "of the host")
        case "pipe":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(LayerError, match="is no file"):
        read_left(path)
