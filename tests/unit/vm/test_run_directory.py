"""Run directories: private, never through somebody's link, and gone with their owner."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bouvet.errors import MachineError
from bouvet.vm.run_directory import LOCK_NAME, make_run_directory

OWNER = """
import sys, signal
from pathlib import Path
from bouvet.vm.run_directory import make_run_directory
with make_run_directory(Path(sys.argv[1]), "other") as path:
    (path / "console.log").touch()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "bouvet"


def test_it_is_private_and_removed(base: Path) -> None:
    with make_run_directory(base, "one") as path:
        assert path == base / "one"
        for directory in (base, path):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (path / "v.sock").touch()
        (path / "more").mkdir()
    assert list(base.iterdir()) == []


def test_it_is_removed_after_a_failure(base: Path) -> None:
    with pytest.raises(ValueError, match="failure"), make_run_directory(base, None):
        raise ValueError("failure")
    assert list(base.iterdir()) == []


def test_random_names_differ(base: Path) -> None:
    with make_run_directory(base, None) as first, make_run_directory(base, None) as second:
        assert first != second


def test_an_id_is_used_once(base: Path) -> None:
    with make_run_directory(base, "one"):
        with pytest.raises(MachineError, match="is running"), make_run_directory(base, "one"):
            pass
        assert (base / "one" / LOCK_NAME).exists()


@pytest.mark.parametrize("plant", ["link", "dangling", "file", "open"])
def test_what_others_planted_is_refused(base: Path, tmp_path: Path, plant: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    if plant == "link":
        base.symlink_to(victim)
    elif plant == "dangling":
        base.symlink_to(tmp_path / "nothing")
    elif plant == "file":
        base.touch()
    else:
        base.mkdir()
        base.chmod(0o770)
    with pytest.raises(MachineError), make_run_directory(base, "one"):
        pass
    assert list(victim.iterdir()) == []
    assert not (tmp_path / "nothing").exists()


@pytest.mark.needs_root
def test_a_directory_of_another_user_is_refused(base: Path) -> None:
    base.mkdir(mode=0o700)
    os.chown(base, 65534, 65534)
    with pytest.raises(MachineError, match="not yours"), make_run_directory(base, "one"):
        pass


def test_a_link_in_the_place_of_a_run_directory_is_not_followed(base: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    base.mkdir(mode=0o700)
    (base / "one").symlink_to(victim)
    with pytest.raises(MachineError), make_run_directory(base, "one"):
        pass
    assert list(victim.iterdir()) == []


def test_what_a_killed_owner_left_is_removed_and_the_rest_is_not(base: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        (base / "not ours").mkdir()
        (base / "file").touch()
        with make_run_directory(base, "one"):
            assert (base / "other" / "console.log").exists()  # its owner lives
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert (base / "other" / "console.log").exists()
    with make_run_directory(base, "other"):
        assert [path.name for path in (base / "other").iterdir()] == [LOCK_NAME]
    assert sorted(path.name for path in base.iterdir()) == ["file", "not ours"]
