"""Packages kept between builds: only intact ones come back, and old versions go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bouvet.layers import debian_archives

CURL_OLD, CURL_NEW, CURL_ARM = (
    "curl_7.88.1-10_amd64.deb",
    "curl_8%3a1.0_amd64.deb",
    "curl_7.88.1-10_arm64.deb",
)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


def collect(directory: Path, downloads: Path, packages: dict[str, bytes]) -> None:
    directory.mkdir()
    for name, content in packages.items():
        (directory / name).write_bytes(content)
    debian_archives.collect(directory, downloads)


def stage(directory: Path, downloads: Path) -> dict[str, bytes]:
    directory.mkdir()
    count = debian_archives.stage(downloads, directory)
    staged = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert len(staged) == count
    return staged


def test_collected_packages_come_back(tmp_path: Path, downloads: Path) -> None:
    packages = {CURL_OLD: b"old", CURL_ARM: b"arm", "zlib1g_1.2_amd64.deb": b"z"}
    collect(tmp_path / "fetched", downloads, packages)
    assert stage(tmp_path / "staged", downloads) == packages
    collect(tmp_path / "again", downloads, packages)
    assert stage(tmp_path / "staged2", downloads) == packages


@pytest.mark.parametrize("damage", [b"", b"ol", b"oLd", b"older"])
def test_a_damaged_package_is_removed_not_staged(tmp_path: Path, downloads: Path, damage: bytes) -> None:
    collect(tmp_path / "fetched", downloads, {CURL_OLD: b"old", CURL_ARM: b"arm"})
    kept = next(downloads.glob(f"{CURL_OLD}.*"))
    kept.unlink()
    kept.write_bytes(damage)
    assert stage(tmp_path / "staged", downloads) == {CURL_ARM: b"arm"}
    assert not kept.exists()


def test_a_new_version_replaces_the_old_one_of_its_architecture(tmp_path: Path, downloads: Path) -> None:
    collect(tmp_path / "first", downloads, {CURL_OLD: b"old", CURL_ARM: b"arm", "zlib1g_1_amd64.deb": b"z"})
    collect(tmp_path / "second", downloads, {CURL_NEW: b"new"})
    assert stage(tmp_path / "staged", downloads) == {
        CURL_NEW: b"new",
        CURL_ARM: b"arm",
        "zlib1g_1_amd64.deb": b"z",
    }


def test_the_same_version_with_other_bytes_replaces_the_old_one(tmp_path: Path, downloads: Path) -> None:
    collect(tmp_path / "first", downloads, {CURL_OLD: b"old"})
    collect(tmp_path / "second", downloads, {CURL_OLD: b"rebuilt"})
    assert stage(tmp_path / "staged", downloads) == {CURL_OLD: b"rebuilt"}


def test_nothing_but_files_is_collected(tmp_path: Path, downloads: Path) -> None:
    before = sorted(path.name for path in downloads.iterdir())
    fetched = tmp_path / "left"
    fetched.mkdir()
    (tmp_path / "of the host").write_bytes(b"secret")
    (fetched / "a_1_all.deb").symlink_to(tmp_path / "of the host")
    (fetched / "b_1_all.deb").mkdir()
    os.mkfifo(fetched / "c_1_all.deb")
    assert debian_archives.collect(fetched, downloads) == {}
    assert sorted(path.name for path in downloads.iterdir()) == before
