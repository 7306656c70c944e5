"""Tarballs of packages: plain files below one directory, and nothing else."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.layers.tarballs import PackagedFile, unpack
from tests.unit.layers.npm_registry import pack


def test_unpacking_yields_files_without_the_first_directory(tmp_path: Path) -> None:
    tarball = tmp_path / "p.tgz"
    tarball.write_bytes(pack({"bin/x": (b"run", 0o755), "lib/y.js": b"text"}))
    assert list(unpack(tarball)) == [
        PackagedFile(b"bin/x", b"run", True, 499162500 * 10**9),
        PackagedFile(b"lib/y.js", b"text", False, 499162500 * 10**9),
    ]


def archive(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for member in members:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


NO_PACKAGES = {
    "leaves the package": archive(member("package/../../etc/passwd")),
    "absolute": archive(member("/etc/passwd")),
    "empty name": archive(member("package//x")),
    "no directory": archive(member("lonely")),
    "symbolic link": archive(member("package/x", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": archive(member("package/x", tarfile.LNKTYPE, "package/y")),
    "device": archive(member("package/x", tarfile.CHRTYPE)),
    "cut": pack({"x": random.Random(1).randbytes(5000)})[:2000],
    "text": b"not a tarball",
    "empty": b"",
}


@pytest.mark.parametrize("content", NO_PACKAGES.values(), ids=NO_PACKAGES.keys())
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    tarball = tmp_path / "p.tgz"
    tarball.write_bytes(content)
    with pytest.raises(LayerError):
        list(unpack(tarball))


def test_a_package_may_not_be_larger_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bouvet.layers.tarballs.LARGEST_PACKAGE", 10)
    tarball = tmp_path / "p.tgz"
    tarball.write_bytes(pack({"a": b"123456", "b": b"123456"}))
    with pytest.raises(LayerError, match="more than"):
        list(unpack(tarball))


def test_a_package_may_not_have_more_files_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bouvet.layers.tarballs.MOST_FILES", 2)
    tarball = tmp_path / "p.tgz"
    tarball.write_bytes(pack({"a": b"", "b": b"", "c": b""}))
    with pytest.raises(LayerError, match="2 files"):
        list(unpack(tarball))


def test_links_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    tarball = tmp_path / "p.tgz"
    tarball.write_bytes(archive(member("package/x", tarfile.SYMTYPE, "/etc/passwd"), member("package/y")))
    assert [file.path for file in unpack(tarball, skip_links=True)] == [b"y"]


@pytest.mark.parametrize("compression", ["gz", "xz", "bz2"])
def test_a_damaged_archive_is_refused(tmp_path: Path, compression: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as file:  # type: ignore[call-overload]
        info = tarfile.TarInfo("package/x")
        info.size = 50_000
        file.addfile(info, io.BytesIO(random.Random(1).randbytes(info.size)))
    content = bytearray(buffer.getvalue())
    content[len(content) // 2] ^= 0xFF
    tarball = tmp_path / "p"
    # gzip's own checksum comes after all that tar reads.
    flipped = [] if compression == "gz" else [bytes(content)]
    for damaged in (*flipped, buffer.getvalue()[:-20_000]):
        tarball.write_bytes(damaged)
        with pytest.raises(LayerError, match="cannot be unpacked"):
            list(unpack(tarball))
