"""Trees that guests send: what is made of them, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bouvet.errors import AgentError
from bouvet.sandbox.archive import extract, write_tree

LIMIT = 1 << 30


def archive(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for entry, content in entries:
            file.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def entry(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    info.mtime = 1_000_000_000
    return info, content


def in_pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def everything_in(directory: Path) -> Iterator[Path]:
    """Yield all below a directory; `Path.rglob` cannot look at links with long targets."""
    for parent, names, files in os.walk(directory):
        yield from (Path(parent) / name for name in names + files)


def test_a_tree_goes_through_an_archive_and_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    deep = source / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(os.urandom(300_000))
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o755)
    os.link(source / "program", source / "same")
    (source / "link").symlink_to("/" + "t" * 300)
    (source / "œ").write_text("")
    data = io.BytesIO()
    write_tree(source, data.write)
    extract(in_pieces(data.getvalue()), tmp_path / "target", limit=LIMIT)
    for path in everything_in(source):
        twin = tmp_path / "target" / path.relative_to(source)
        assert twin.lstat().st_mode == path.lstat().st_mode
        if path.is_symlink():
            assert twin.readlink() == path.readlink()
        elif path.is_file():
            assert twin.read_bytes() == path.read_bytes()
            assert int(twin.stat().st_mtime) == int(path.stat().st_mtime)
    assert (tmp_path / "target" / "same").samefile(tmp_path / "target" / "program")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_long_names_is_read(tmp_path: Path, form: int) -> None:
    name = "/".join(["d" * 50] * 3) + "/file"
    data = archive(entry(name, b"x"), form=form)
    extract(in_pieces(data, 7), tmp_path / "target", limit=LIMIT)
    assert (tmp_path / "target" / name).read_bytes() == b"x"


def test_permissions_are_what_they_may_be(tmp_path: Path) -> None:
    data = archive(entry("set", mode=0o6777), entry("none", mode=0), entry("d", kind=tarfile.DIRTYPE, mode=0))
    extract(in_pieces(data), tmp_path / "target", limit=LIMIT)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "target").iterdir()}
    assert modes == {"set": 0o755, "none": 0o600, "d": 0o700}


def header_with(offset: int, field: bytes) -> bytes:
    """Return an archive whose first header has other bytes somewhere, and a right checksum."""
    block = bytearray(archive(entry("file", b"x" * 10))[:512])
    block[offset : offset + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def sparse() -> bytes:
    info, content = entry("f", b"1\n")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return archive((info, content))


GIB = 1 << 30
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a name that leads out": lambda: archive(entry("../out", b"x")),
    "a name that leads out further on": lambda: archive(entry("a/b/../../../out", b"x")),
    "an absolute name": lambda: archive(entry("/tmp/out", b"x")),
    "a file through a link": lambda: archive(
        entry("l", kind=tarfile.SYMTYPE, link=".."), entry("l/out", b"x")
    ),
    "a directory through a link": lambda: archive(
        entry("l", kind=tarfile.SYMTYPE, link="/tmp"), entry("l/out", kind=tarfile.DIRTYPE)
    ),
    "a directory in a link's place": lambda: archive(
        entry("l", kind=tarfile.SYMTYPE, link=".."), entry("l", kind=tarfile.DIRTYPE, mode=0o777)
    ),
    "a second name of what is outside": lambda: archive(entry("h", kind=tarfile.LNKTYPE, link="../victim")),
    "a second name through a link": lambda: archive(
        entry("l", kind=tarfile.SYMTYPE, link=".."), entry("h", kind=tarfile.LNKTYPE, link="l/victim")
    ),
    "a second name of nothing": lambda: archive(entry("h", kind=tarfile.LNKTYPE, link="missing")),
    "a device": lambda: archive(entry("null", kind=tarfile.CHRTYPE)),
    "a pipe": lambda: archive(entry("pipe", kind=tarfile.FIFOTYPE)),
    "a file as the tree": lambda: archive(entry(".", b"x")),
    "a file in a file": lambda: archive(entry("f", b"x"), entry("f/g", b"x")),
    "a file in a directory's place": lambda: archive(entry("d/e", b"x"), entry("d", b"x")),
    "a depth of a thousand": lambda: archive(entry("d/" * 1000 + "f", b"x")),
    "a path of 5,000 bytes": lambda: archive(entry("/".join(["d" * 200] * 25), b"x")),
    "an end in the middle": lambda: archive(entry("f", b"x" * 5000))[:3000],
    "no end": lambda: archive(entry("f", b"x" * 512))[:1024],
    "garbage": lambda: b"\xff" * 2048,
    "a wrong checksum": lambda: b"X" + archive(entry("f", b"x"))[1:],
    "a size that is no number": lambda: header_with(124, b"99999999999\0"),
    "a size below zero": lambda: header_with(124, b"\xff" * 12),
    "a size over every limit": lambda: header_with(124, b"\x80" + b"\x7f" * 11),
    "a size over the limit": lambda: header_with(124, b"%011o\0" % (2 * GIB)),
    "a sparse file": sparse,
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_tree_leaves_nothing_behind(tmp_path: Path, make: Callable[[], bytes]) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    before = tmp_path.stat().st_mode
    with pytest.raises(AgentError) as failure:
        extract(in_pieces(make()), inside / "target", limit=GIB)
    assert len(failure.value.message) < 1000
    assert list(inside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "victim"]
    assert victim.stat().st_nlink == 1
    assert tmp_path.stat().st_mode == before


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_long_attributes_are_not_held(tmp_path: Path, kind: bytes) -> None:
    block = bytearray(header_with(124, b"%011o\0" % (1 << 20))[:512])
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(AgentError, match="attributes"):
        extract(iter([bytes(block), bytes(1 << 20)]), tmp_path / "target", limit=GIB)


@pytest.mark.parametrize(
    "records", [b"5 a=b\n", b"a=b\n", b"0 a=b\n", b"99 a=b\n", b"6 ab=\n\n", b"-6 a=b\n", b"9999999999 a=b\n"]
)
def test_attributes_that_are_none(tmp_path: Path, records: bytes) -> None:
    data = bytearray(archive(entry("x" * 200, b"x")))
    size = struct.pack("12s", b"%011o\0" % len(records))
    data[124:136] = size
    data[512:1024] = records.ljust(512, b"\0")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(AgentError):
        extract(in_pieces(bytes(data)), tmp_path / "target", limit=GIB)


def test_what_is_there_already_is_not_replaced(tmp_path: Path) -> None:
    for name in ("directory", "link"):
        (tmp_path / "directory").mkdir(exist_ok=True)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("missing")
        with pytest.raises(FileExistsError):
            extract(in_pieces(archive(entry("f", b"x"))), tmp_path / name, limit=LIMIT)


def test_an_error_after_the_last_entry_counts(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield archive(entry("f", b"x"))
        raise AgentError("the stream was not complete")

    with pytest.raises(AgentError, match="complete"):
        extract(pieces(), tmp_path / "target", limit=LIMIT)
    assert list(tmp_path.iterdir()) == []
