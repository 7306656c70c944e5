"""Decompressed packages: the same content for dpkg, kept, and checked before they are used again."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path
from typing import IO

import pytest

from bouvet.errors import FormatError
from bouvet.layers import plain_debs
from bouvet.layers.plain_debs import PlainDebs

CONTROL = gzip.compress(b"control", mtime=0)


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


DATA = tar_of(one=b"1" * 70_000, two=b"22")


def deb(data_name: bytes, data: bytes) -> bytes:
    """Return a `.deb` (deb(5)) around a data member."""
    out = plain_debs.MAGIC
    for name, content in ((b"debian-binary", b"2.0\n"), (b"control.tar.gz", CONTROL), (data_name, data)):
        out += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(content))
        out += content + b"\n" * (len(content) % 2)
    return out


def plain(content: bytes, directory: Path) -> bytes:
    (directory / "in.deb").write_bytes(content)
    with (directory / "in.deb").open("rb") as source, (directory / "out.deb").open("wb") as target:
        plain_debs.write_plain(source, target)
    return (directory / "out.deb").read_bytes()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"data.tar.xz", lzma.compress(DATA)),
        (b"data.tar.gz", gzip.compress(DATA, mtime=0)),
        (b"data.tar", DATA),
    ],
)
def test_data_is_decompressed_and_all_else_is_as_it_was(name: bytes, data: bytes, tmp_path: Path) -> None:
    assert plain(deb(name, data), tmp_path) == deb(b"data.tar", DATA)


@pytest.mark.needs_tool("dpkg-deb")
@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_dpkg_finds_the_same_in_it(compression: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: odd\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: d\n"
    )
    (tree / "file").write_bytes(os.urandom(5001))
    original, target = tmp_path / "a.deb", tmp_path / "b.deb"
    subprocess.run(["dpkg-deb", f"-Z{compression}", "--build", tree, original], check=True, timeout=60)
    target.write_bytes(plain(original.read_bytes(), tmp_path))
    for what in ("--fsys-tarfile", "--ctrl-tarfile"):
        both = [subprocess.check_output(["dpkg-deb", what, path], timeout=60) for path in (original, target)]
        assert both[0] == both[1]
    with target.open("rb") as file:
        assert plain_debs.data_member(file).name == b"data.tar"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"!<arch>\nshort",
        deb(b"data.tar.xz", lzma.compress(DATA)[:-40]),
        deb(b"data.tar.xz", lzma.compress(DATA))[:-40],
        deb(b"data.tar.xz", b"no xz at all"),
        deb(b"data.tar.gz", gzip.compress(DATA, mtime=0)[:-12]),
        deb(b"data.tar.gz", b"no gzip at all"),
        deb(b"data.tar", DATA).replace(b"`\n", b"??", 1),
    ],
)
def test_a_damaged_package_is_an_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        plain(content, tmp_path)


def test_a_package_without_data_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "deb").write_bytes(deb(b"other", b""))
    with (tmp_path / "deb").open("rb") as file, pytest.raises(FormatError):
        plain_debs.data_member(file)


def test_a_kept_one_is_used_again_unless_it_is_damaged(tmp_path: Path) -> None:
    package, kept = tmp_path / "package.deb", tmp_path / "kept"
    package.write_bytes(deb(b"data.tar.xz", lzma.compress(DATA)))
    expected = deb(b"data.tar", DATA)
    PlainDebs(kept).link(package, tmp_path / "first")
    [path] = kept.iterdir()
    PlainDebs(kept).link(package, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == expected
    assert path.stat().st_nlink == 3
    path.unlink()
    path.write_bytes(expected[:-1] + b"?")
    PlainDebs(kept).link(package, tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == expected
    assert [each.read_bytes() for each in kept.iterdir()] == [expected]


def test_another_build_may_drop_what_is_kept_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, kept = tmp_path / "package.deb", tmp_path / "kept"
    package.write_bytes(deb(b"data.tar.xz", lzma.compress(DATA)))
    PlainDebs(kept).link(package, tmp_path / "first")
    here = PlainDebs(kept)
    plain_debs.drop_others(kept, set())
    write = plain_debs.write_plain

    def drop_and_write(source: IO[bytes], target: IO[bytes]) -> None:
        write(source, target)
        plain_debs.drop_others(kept, set())

    monkeypatch.setattr(plain_debs, "write_plain", drop_and_write)
    here.link(package, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == deb(b"data.tar", DATA)


def test_nothing_stays_of_a_failure(tmp_path: Path) -> None:
    (tmp_path / "package.deb").write_bytes(deb(b"data.tar.xz", b"?"))
    with pytest.raises(FormatError):
        PlainDebs(tmp_path / "kept").link(tmp_path / "package.deb", tmp_path / "target")
    assert not list((tmp_path / "kept").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "package.deb"}


def test_those_of_packages_that_are_gone_are_dropped(tmp_path: Path) -> None:
    plain_debs.drop_others(tmp_path / "nothing", set())
    names = ["a" * 64 + ".00000000", "b" * 64 + ".00000000", "tmpx"]
    for name in names:
        (tmp_path / name).touch()
    plain_debs.drop_others(tmp_path, {"a" * 64})
    assert [path.name for path in tmp_path.iterdir()] == names[:1]
