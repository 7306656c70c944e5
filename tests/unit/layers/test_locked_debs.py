"""Locked packages for apt: where they are looked for, their index, and what apt says of them."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from bouvet.errors import LayerError, LockError
from bouvet.layers import locked_debs
from bouvet.layers.debian_archives import file_name
from bouvet.plan.provenance import Artifact
from tests.unit.layers.bench import bench

A, B = "a" * 64, "b" * 64
LIBC = Artifact("libc6", "1:2.36-9", "amd64", f"sha256:{A}", "pool/main/g/glibc/libc6_2.36-9_amd64.deb")
SHOWN = f"""\
Package: libc6
Version: 1:2.36-9
Architecture: amd64
Description: a library
 Filename: of no meaning
Filename: ./{LIBC.path}
SHA256: {A}
"""
# What dpkg alone knows of.
LOCAL = "Package: own\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"


def test_names_of_files_are_apts() -> None:
    assert file_name(LIBC) == "libc6_1%3a2.36-9_amd64.deb"


def test_addresses_of_archives() -> None:
    lines = [
        "deb http://127.0.0.1/debian bookworm main",
        "deb [arch=amd64 signed-by=/a b] http://127.0.0.1/security/ bookworm-security main",
        "deb http://127.0.0.1/debian/ bookworm-updates main",
        "deb-src http://127.0.0.1/source bookworm main",
        "# deb http://127.0.0.1/not",
    ]
    assert locked_debs.addresses(lines) == ["http://127.0.0.1/debian", "http://127.0.0.1/security"]


@pytest.mark.parametrize(
    ("mirror", "addresses"),
    [
        ("http://h/debian", ["http://h/debian", "http://h/debian-security"]),
        ("http://h/a/debian/2026Z/", ["http://h/a/debian/2026Z", "http://h/a/debian-security/2026Z"]),
        ("deb http://h/x ./", ["http://h/x"]),
    ],
)  # fmt: skip
def test_the_security_archive_is_beside_the_other(mirror: str, addresses: list[str]) -> None:
    assert locked_debs.addresses(locked_debs.mirror_lines(mirror, "bookworm")) == addresses


def test_what_apt_says_is_installed(tmp_path: Path) -> None:
    kept = {file_name(LIBC): A}
    assert locked_debs.installed(f"{SHOWN}\n{LOCAL}\n", kept, tmp_path) == (LIBC,)
    assert locked_debs.installed("", kept, tmp_path) == ()
    # Two archives have the version; the installed file is the second one's.
    other = SHOWN.replace(A, B)
    assert locked_debs.installed(f"{other}\n{SHOWN}", kept, tmp_path) == (LIBC,)


def test_a_kept_file_that_no_archive_has_is_told_and_removed(tmp_path: Path) -> None:
    name = file_name(LIBC)
    (tmp_path / f"{name}.{B}").touch()
    with pytest.raises(LayerError, match="other bytes") as caught:
        locked_debs.installed(SHOWN, {name: B}, tmp_path)
    assert caught.value.details == (f"expected SHA-256 {A}", f"found SHA-256    {B}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_tool("dpkg-deb")
def test_the_index_has_the_packages_fields_and_the_locks_digests(tmp_path: Path) -> None:
    control = tmp_path / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: own\nVersion: 1:2\nArchitecture: all\nMaintainer: me <me@example.org>\n"
        "Depends: libc6\nDescription: short\n long\n .\n end\n"
    )
    artifact = Artifact("own", "1:2", "all", f"sha256:{A}", "pool/own.deb")
    package = tmp_path / file_name(artifact)
    subprocess.run(
        ["dpkg-deb", "--build", str(tmp_path / "tree"), str(package)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    locked_debs.write_archive([artifact], tmp_path, "bookworm")
    index = (tmp_path / "Packages").read_text()
    values = locked_debs.fields(index)
    assert (values["Depends"], values["Filename"], values["SHA256"]) == ("libc6", "pool/own.deb", A)
    assert values["Size"] == str(package.stat().st_size)
    assert "\n .\n end\n" in index
    release = (tmp_path / "Release").read_text()
    assert f" {hashlib.sha256(index.encode()).hexdigest()} {len(index)} Packages\n" in release
    package.rename(tmp_path / "own_1_all.deb")
    with pytest.raises(LayerError, match="is the package own 1:2"):
        locked_debs.write_archive([Artifact("own", "1", "all", f"sha256:{A}")], tmp_path, "bookworm")


@pytest.mark.parametrize(
    "artifact",
    [
        Artifact("../x", "1", "all", f"sha256:{A}", "pool/x.deb"),
        Artifact("x", "1/../../y", "all", f"sha256:{A}", "pool/x.deb"),
        Artifact("x", "1", "all", "sha512-x", "pool/x.deb"),
        Artifact("x", "1", "all", f"sha256:{A}", "../x.deb"),
        Artifact("x", "1", "all", f"sha256:{A}", "/x.deb"),
    ],
)
def test_hostile_names_lead_nowhere(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    with pytest.raises(LockError, match="1 of 1 packages of the lock cannot be had"):
        locked_debs.obtain([artifact], ["http://127.0.0.1:1"], bench(tmp_path).workshop, tmp_path / "staged")
    assert list((tmp_path / "staged").iterdir()) == []


def test_a_damaged_kept_package_is_not_used_and_gives_way_to_a_right_one(tmp_path: Path) -> None:
    workshop = bench(tmp_path).workshop
    content = b"a package"
    digest = hashlib.sha256(content).hexdigest()
    artifact = Artifact("own", "1", "all", f"sha256:{digest}", "pool/own.deb")
    kept = workshop.downloads / f"own_1_all.deb.{digest}"
    kept.write_bytes(b"damaged")
    staged = tmp_path / "staged"
    staged.mkdir()
    with pytest.raises(LockError):
        locked_debs.obtain([artifact], ["http://127.0.0.1:1"], workshop, staged)
    assert not kept.exists()
    assert not list(staged.iterdir())
