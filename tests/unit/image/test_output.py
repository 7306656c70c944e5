"""Files that appear whole, and files that are changed in place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bouvet.errors import ImageError
from bouvet.image.output import replacing, reworking


def anything(_: os.stat_result) -> bool:
    return True


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    return path


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_new_file_appears_at_the_end(target: Path) -> None:
    with replacing(target) as descriptor:
        os.write(descriptor, b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(target) == ["image"]


def test_a_failure_leaves_the_old_file(target: Path) -> None:
    def interrupted() -> None:
        with replacing(target) as descriptor:
            os.write(descriptor, b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert names(target) == ["image"]


def test_a_change_in_place_is_of_the_same_file(target: Path) -> None:
    inode = target.stat().st_ino
    with reworking(target, anything) as descriptor:
        assert descriptor is not None
        assert not target.exists()
        os.pwrite(descriptor, b"N", 0)
    assert target.read_bytes() == b"Nld"
    assert target.stat().st_ino == inode
    assert names(target) == ["image"]


def test_a_failed_change_leaves_no_half_of_it(target: Path) -> None:
    def on_a_full_disk() -> None:
        with reworking(target, anything) as descriptor:
            assert descriptor is not None
            os.pwrite(descriptor, b"N", 0)
            raise OSError(28, os.strerror(28))

    with pytest.raises(ImageError, match="No space left"):
        on_a_full_disk()
    assert names(target) == []


def test_what_is_not_as_expected_is_left_alone(target: Path) -> None:
    with reworking(target, lambda state: state.st_size == 4) as descriptor:
        assert descriptor is None
    assert target.read_bytes() == b"old"


def test_what_is_not_there_or_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "directory").mkdir()
    for name in ("missing", "link", "directory"):
        with reworking(tmp_path / name, anything) as descriptor:
            assert descriptor is None


def test_what_has_another_name_is_left_alone(target: Path) -> None:
    target.with_name("copy").hardlink_to(target)
    with reworking(target, anything) as descriptor:
        assert descriptor is None


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_what_somebody_has_open_is_left_alone(target: Path, mode: str) -> None:
    with target.open(mode), reworking(target, anything) as descriptor:
        assert descriptor is None
    with reworking(target, anything) as descriptor:
        assert descriptor is not None


def test_who_opens_it_meanwhile_harms_nobody(target: Path) -> None:
    """By the hidden name it can be found; its opener waits, and the signal about that ends nothing."""
    found: list[bytes] = []
    with reworking(target, anything) as descriptor:
        assert descriptor is not None
        (hidden,) = target.parent.iterdir()
        reader = threading.Thread(target=lambda: found.append(hidden.read_bytes()))
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        os.pwrite(descriptor, b"N", 0)
    reader.join()
    assert found == [b"Nld"]


def test_what_a_killed_process_left_is_removed(target: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from bouvet.image.output import reworking\n"
        "with reworking(Path(sys.argv[1]), lambda state: True) as descriptor:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, target], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(target)
    assert left != "image"
    with reworking(target, anything) as descriptor:
        assert descriptor is None
    assert names(target) == []


def test_another_s_change_is_left_alone(target: Path) -> None:
    with reworking(target, anything) as descriptor:
        assert descriptor is not None
        target.write_bytes(b"another build's")
        with reworking(target, anything) as second:
            assert second is not None
        assert len(names(target)) == 2
    assert names(target) == ["image"]
