"""Which entries of a built tree stay, and what time they get."""

from __future__ import annotations

import pytest

from bouvet.formats.tree import directory, regular_file, symlink
from bouvet.layers.debian_tree import Settling, stays

STARTED = 1_800_000_000_000_000_000


@pytest.mark.parametrize(
    "path",
    [
        b"etc/resolv.conf",
        b"etc/hostname",
        b"etc/machine-id",
        b"etc/shadow-",
        b"dev/null",
        b"run/lock",
        b"tmp/left",
        b"var/lib/apt/lists/partial",
        b"var/cache/apt/archives/lock",
        b"var/cache/ldconfig/aux-cache",
        b"var/lib/dpkg/status-old",
        b"var/log/dpkg.log",
        b"var/log/apt/history.log",
    ],
)
def test_traces_of_the_host_and_of_the_build_go(path: bytes) -> None:
    assert not stays(path, regular_file(b"x"))


@pytest.mark.parametrize(
    "path", [b"", b"dev", b"run", b"tmp", b"var/log", b"var/lib/apt/lists", b"var/cache/apt"]
)
def test_the_directories_themselves_stay(path: bytes) -> None:
    assert stays(path, directory())


@pytest.mark.parametrize("path", [b"etc/shadow", b"var/lib/dpkg/status", b"etc/apt/sources.list", b"devel/x"])
def test_other_files_stay(path: bytes) -> None:
    assert stays(path, regular_file(b"x"))


def test_logs_go_except_the_login_records_and_what_is_no_file() -> None:
    assert stays(b"var/log/btmp", regular_file(b""))
    assert stays(b"var/log/README", symlink(b"../x"))
    assert stays(b"var/log/journal", directory())
    assert not stays(b"var/log/any.log", regular_file(b""))


def test_what_the_build_made_gets_the_newest_time_of_what_packages_brought() -> None:
    settling = Settling(STARTED)
    old = regular_file(b"", mtime=1_000)
    newest = regular_file(b"", mtime=STARTED - 1)
    made, later = regular_file(b"", mtime=STARTED), directory(mtime=STARTED + 5)
    for path, inode in ((b"a", made), (b"b", old), (b"c", newest), (b"d", later)):
        assert settling.keep(path, inode)
    settling.settle()
    assert (old.mtime, newest.mtime) == (1_000, STARTED - 1)
    assert made.mtime == later.mtime == STARTED - 1


def test_what_does_not_stay_sets_no_time() -> None:
    settling = Settling(STARTED)
    made = regular_file(b"", mtime=STARTED)
    settling.keep(b"made", made)
    settling.keep(b"packaged", regular_file(b"", mtime=7))
    assert not settling.keep(b"etc/resolv.conf", regular_file(b"", mtime=STARTED - 1))
    settling.settle()
    assert made.mtime == 7
