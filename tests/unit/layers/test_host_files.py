"""Files of the host: what counts, what is left out, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bouvet.errors import SpecError
from bouvet.layers import host_files


def project(directory: Path) -> Path:
    (directory / "src").mkdir(parents=True)
    (directory / "target").mkdir()
    (directory / "src/main.rs").write_text("fn main() {}\n")
    (directory / "src/notes.md").write_text("notes\n")
    (directory / "target/out.o").write_bytes(b"object")
    (directory / "run.sh").write_text("#!/bin/sh\n")
    (directory / "run.sh").chmod(0o755)
    (directory / "link").symlink_to("/nowhere")
    return directory


def test_a_directory_is_read_in_order(tmp_path: Path) -> None:
    found = host_files.read(project(tmp_path / "p"))
    assert found.is_directory
    assert [(entry.path, entry.mode) for entry in found.entries] == [
        (b"", 0o040755),
        (b"link", 0o120777),
        (b"run.sh", 0o100755),
        (b"src", 0o040755),
        (b"src/main.rs", 0o100644),
        (b"src/notes.md", 0o100644),
        (b"target", 0o040755),
        (b"target/out.o", 0o100644),
    ]


@pytest.mark.parametrize(
    ("exclude", "gone"),
    [
        (["target"], {b"target", b"target/out.o"}),
        (["target/"], {b"target", b"target/out.o"}),
        (["*.md", "*.o"], {b"src/notes.md", b"target/out.o"}),
        (["src/*.md"], {b"src/notes.md"}),
        (["md"], set()),
    ],
)
def test_patterns_leave_out(tmp_path: Path, exclude: list[str], gone: set[bytes]) -> None:
    directory = project(tmp_path / "p")
    everything = {entry.path for entry in host_files.read(directory).entries}
    left = {entry.path for entry in host_files.read(directory, exclude=exclude).entries}
    assert everything - left == gone


def test_the_digest_is_the_same_in_another_place_at_another_time_with_another_umask(tmp_path: Path) -> None:
    first = project(tmp_path / "one")
    before = os.umask(0o077)
    try:
        second = project(tmp_path / "other" / "two")
    finally:
        os.umask(before)
    for path in second.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert host_files.read(first).digest == host_files.read(second).digest


def test_every_change_changes_the_digest(tmp_path: Path) -> None:
    def change_link(directory: Path) -> None:
        (directory / "link").unlink()
        (directory / "link").symlink_to("/elsewhere")

    changes = [
        lambda directory: (directory / "src/main.rs").write_text("fn main() { }\n"),
        lambda directory: (directory / "run.sh").chmod(0o644),
        lambda directory: (directory / "run.sh").rename(directory / "walk.sh"),
        lambda directory: (directory / "empty").mkdir(),
        change_link,
    ]
    digests = {host_files.read(project(tmp_path / "same")).digest}
    for number, change in enumerate(changes):
        directory = project(tmp_path / str(number))
        change(directory)
        digests.add(host_files.read(directory).digest)
    assert len(digests) == len(changes) + 1


def test_a_texts_digest_is_that_of_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    assert host_files.text("text\n").digest == host_files.read(tmp_path / "file").digest


def test_a_change_is_taken_instead(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    assert host_files.read(tmp_path / "file", change=str.upper).entries[0].content == b"TEXT\n"


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        host_files.read(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="neither a file nor a directory"):
        host_files.read(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(SpecError, match="no template"):
        host_files.read(tmp_path / "binary", change=str)
