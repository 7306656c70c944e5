"""cpio archives: their bytes, against GNU cpio too, and hostile ones."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.errors import FormatError
from bouvet.formats.cpio import ALIGNMENT, TRAILER, CpioEntry, read_archive, write_archive

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755

names = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"\0" not in name and b"/" not in name and name not in (b"..", TRAILER)
)
numbers = st.integers(0, 0xFFFFFFFF)
entries = st.builds(
    CpioEntry,
    name=names,
    mode=numbers,
    content=st.binary(max_size=200),
    uid=numbers,
    gid=numbers,
    mtime=numbers,
    device=st.tuples(numbers, numbers),
)


@given(st.lists(entries, max_size=5))
def test_what_is_written_is_read_again(items: list[CpioEntry]) -> None:
    archive = write_archive(items)
    assert read_archive(archive) == items
    assert len(archive) % ALIGNMENT == 0


def test_the_bytes_are_those_of_the_specification() -> None:
    archive = write_archive([CpioEntry(b"ab", 0o100644, b"12345", uid=1, gid=2, mtime=3, device=(4, 5))])
    fields = (
        "00000001 000081A4 00000001 00000002 00000001 00000003 00000005 "
        "00000000 00000000 00000004 00000005 00000003 00000000"
    )
    first = b"070701" + fields.replace(" ", "").encode() + b"ab\0\0\0\0" + b"12345\0\0\0"
    assert archive.startswith(first)
    trailer = archive[len(first) :]
    assert trailer.startswith(b"070701" + b"0" * 8 * 4 + b"00000001" + b"0" * 8 * 6 + b"0000000B")
    assert trailer.rstrip(b"\0").endswith(TRAILER)


@pytest.mark.needs_tool("cpio")
def test_gnu_cpio_unpacks_it(tmp_path: Path) -> None:
    items = [
        CpioEntry(b"directory", DIRECTORY),
        CpioEntry(b"directory/program", stat.S_IFREG | 0o755, os.urandom(70_001)),
        CpioEntry(b"link", stat.S_IFLNK | 0o777, b"directory/program"),
        CpioEntry(b"empty", FILE),
    ]
    subprocess.run(
        ["cpio", "--extract", "--quiet"], input=write_archive(items), cwd=tmp_path, check=True, timeout=20
    )
    program = tmp_path / "directory" / "program"
    assert program.read_bytes() == items[1].content
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert (tmp_path / "link").readlink() == Path("directory/program")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["directory", "empty", "link", "program"]


@pytest.mark.needs_tool("cpio")
def test_it_reads_what_gnu_cpio_writes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    done = subprocess.run(
        ["cpio", "--create", "--quiet", "--format=newc"],
        input=b"file\n", cwd=tmp_path, check=True, timeout=20, stdout=subprocess.PIPE,
    )  # fmt: skip
    (entry,) = read_archive(done.stdout)
    assert (entry.name, entry.content, stat.S_ISREG(entry.mode)) == (b"file", b"content", True)


@pytest.mark.parametrize(
    "name", [b"", b"/init", b"a//b", b"a/", b"../a", b"a/../b", b"a\0b", TRAILER, b"a" * 4096]
)
def test_impossible_names_are_refused(name: bytes) -> None:
    with pytest.raises(FormatError):
        write_archive([CpioEntry(name, FILE)])


@pytest.mark.parametrize("entry", [CpioEntry(b"a", FILE, uid=1 << 32), CpioEntry(b"a", FILE, mtime=-1)])
def test_numbers_beyond_32_bits_are_refused(entry: CpioEntry) -> None:
    with pytest.raises(FormatError):
        write_archive([entry])


def test_every_cut_is_noticed() -> None:
    archive = write_archive([CpioEntry(b"file", FILE, b"content")]).rstrip(b"\0")
    for length in range(len(archive)):
        with pytest.raises(FormatError):
            read_archive(archive[:length])


@given(st.binary(max_size=400), st.integers(0, 120))
def test_a_damaged_archive_is_an_error_or_an_archive(noise: bytes, place: int) -> None:
    archive = bytearray(write_archive([CpioEntry(b"file", FILE, b"content")]))
    archive[place : place + len(noise)] = noise
    try:
        items = read_archive(bytes(archive))
    except FormatError:
        return
    assert all(len(item.content) <= len(archive) for item in items)
