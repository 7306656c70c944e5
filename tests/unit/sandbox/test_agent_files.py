"""The client's files, streams and watches, with the real agent on this host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import FileChange, RequestRefused
from bouvet.sandbox import AgentClient, CallTimeout

SECONDS = 60.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory without the agent's socket."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that other users can enter, as those that are above a test's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_pieces_of_files(client: AgentClient, place: Path) -> None:
    path = place / "file"
    client.files.write(str(path), bytes(range(256)), mode=0o640)
    assert path.stat().st_mode & 0o777 == 0o640
    client.files.write(str(path), b"XY", offset=10)
    client.files.write(str(path), b"end", append=True)
    assert path.read_bytes() == bytes(range(10)) + b"XY" + bytes(range(12, 256)) + b"end"
    piece = client.files.read(str(path), offset=254, length=3)
    assert (piece.data, piece.offset, piece.at_end, piece.size) == (b"\xfe\xffe", 254, False, 259)
    assert client.files.read(str(path), offset=257).at_end
    client.files.write(str(path), b"short", offset=0, truncate=True)
    assert path.read_bytes() == b"short"


def test_names_and_what_is_known_of_them(client: AgentClient, place: Path) -> None:
    files = client.files
    files.mkdir(str(place / "a" / "b"), parents=True, mode=0o700)
    files.symlink("b", str(place / "a" / "link"))
    link = files.stat(str(place / "a" / "link"), follow=False)
    assert (link.type, link.target) == ("symlink", "b")
    assert files.stat(str(place / "a" / "link")).type == "directory"
    (place / "file").write_bytes(b"12345")
    files.chmod(str(place / "file"), 0o4711)
    files.chown(str(place / "file"), os.getuid(), os.getgid())
    files.chmod(str(place / "file"), 0o711)
    files.rename(str(place / "file"), str(place / "a" / "renamed"))
    known = files.stat(str(place / "a" / "renamed"))
    status = (place / "a" / "renamed").stat()
    assert (known.type, known.mode, known.size, known.links) == ("file", 0o711, 5, 1)
    assert (known.uid, known.gid, known.inode) == (status.st_uid, status.st_gid, status.st_ino)
    assert known.mtime_ns == status.st_mtime_ns
    with pytest.raises(RequestRefused) as refusal:
        files.remove(str(place / "a"))
    assert refusal.value.errno == "ENOTEMPTY"
    files.remove(str(place / "a"), recursive=True)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 40_000_001])
def test_files_of_any_size_are_copied_both_ways(client: AgentClient, place: Path, size: int) -> None:
    source = place / "source"
    source.write_bytes(os.urandom(size))
    source.chmod(0o751)
    client.files.upload(source, str(place / "there"))
    assert (place / "there").stat().st_mode & 0o777 == 0o751
    client.files.download(str(place / "there"), place / "back")
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in place.iterdir()}
    assert len(digests) == 1


def test_a_part_of_a_file_is_streamed(client: AgentClient, place: Path) -> None:
    (place / "file").write_bytes(b"0123456789")
    with client.files.open_download(str(place / "file"), offset=2, length=5) as stream:
        assert b"".join(stream) == b"23456"


def test_trees_are_copied_both_ways(client: AgentClient, place: Path) -> None:
    source = place / "source"
    (source / "empty").mkdir(parents=True)
    (source / "program").write_bytes(os.urandom(2_000_000))
    (source / "program").chmod(0o755)
    (source / "link").symlink_to("../elsewhere")
    os.link(source / "program", source / "same")
    (source / ("l" * 200)).write_text("œ")
    (place / "there").mkdir()
    client.files.upload_tree(source, str(place / "there"))
    client.files.download_tree(str(place / "there"), place / "back")
    for path in source.rglob("*"):
        for copy in ("there", "back"):
            twin = place / copy / path.relative_to(source)
            assert twin.lstat().st_mode == path.lstat().st_mode, twin
            assert twin.is_symlink() or twin.is_dir() or twin.read_bytes() == path.read_bytes()
    assert (place / "back" / "same").samefile(place / "back" / "program")


@pytest.mark.needs_root
def test_an_upload_as_a_user_is_that_users(client: AgentClient, open_place: Path) -> None:
    place = open_place
    stranger = 54321
    source = place / "source"
    (source / "below").mkdir(parents=True)
    (source / "below" / "file").write_text("content")
    (source / "below" / "file").chmod(0o4755)
    home = place / "home"
    home.mkdir()
    os.chown(home, stranger, stranger)
    (home / "old").write_text("root's")
    (home / "old").chmod(0o640)
    client.files.upload(source / "below" / "file", str(home / "a" / "b"), user=stranger)
    client.files.upload_tree(source, str(home / "tree"), user=stranger)
    with client.files.open_upload(str(home / "old"), user=str(stranger)) as stream:
        stream.write(b"stranger's")
    for path in home.rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (stranger, stranger), path
    assert (home / "old").stat().st_mode & 0o7777 == 0o640
    assert (home / "tree" / "below" / "file").read_text() == "content"
    # What the user may not do is not done, and what root does afterwards is root's.
    for refused in (place / "root", source / "below" / "file", source / "below" / "new"):
        with pytest.raises(RequestRefused) as refusal:
            client.files.upload(home / "old", str(refused), user=stranger)
        assert refusal.value.errno in ("EACCES", "EPERM")
    client.files.upload(home / "old", str(home / "of-root"))
    assert (home / "of-root").stat().st_uid == 0
    with pytest.raises(RequestRefused, match="no user"):
        client.files.upload(home / "old", str(home / "none"), user="no-such-user")


def test_streams_that_fail_leave_what_was_there(client: AgentClient, place: Path) -> None:
    with pytest.raises(RequestRefused) as refusal:
        client.files.download(str(place / "missing"), place / "here")
    assert refusal.value.errno == "ENOENT"
    (place / "file").write_text("old")

    def give_up() -> None:
        with client.files.open_upload(str(place / "file")) as stream:
            stream.write(b"new" * (1 << 20))
            raise ValueError

    with pytest.raises(ValueError):
        give_up()
    (place / "source").write_bytes(b"x" * (3 << 20))
    with pytest.raises(RequestRefused) as refusal:
        client.files.upload(place / "source", str(place / "file" / "below"))
    assert refusal.value.errno == "ENOTDIR"
    # The agent learns of the first one's end by itself.
    for _ in range(1000):
        if len(list(place.iterdir())) == 2:
            break
        client.ping()
    assert sorted(path.name for path in place.iterdir()) == ["file", "source"]
    assert (place / "file").read_text() == "old"


def test_an_archive_gets_nowhere_through_a_link_in_the_guest(client: AgentClient, place: Path) -> None:
    (place / "source").mkdir()
    (place / "source" / "link").symlink_to(place)
    (place / "there").mkdir()
    client.files.upload_tree(place / "source", str(place / "there"))
    (place / "source" / "link").unlink()
    (place / "source" / "link").mkdir()
    (place / "source" / "link" / "out").write_text("x")
    # The link may be replaced, or the archive refused.
    with contextlib.suppress(AgentError):
        client.files.upload_tree(place / "source", str(place / "there"))
    assert not (place / "out").exists()


def test_changes_are_told_until_the_watch_ends(client: AgentClient, place: Path) -> None:
    (place / "below").mkdir()
    with client.files.watch(str(place), recursive=True) as watch:
        events = watch.events(timeout=SECONDS)
        (place / "below" / "file").write_text("x")
        assert next(events) == FileChange(str(place / "below" / "file"), "created", None)
        (place / "below" / "file").rename(place / "moved")
        moved = next(event for event in events if isinstance(event, FileChange) and event.event == "moved")
        assert (moved.path, moved.moved_from) == (str(place / "moved"), str(place / "below" / "file"))
        (place / "moved").unlink()
        assert any(event == FileChange(str(place / "moved"), "removed", None) for event in events)
    (place / "later").touch()
    client.ping()
    with pytest.raises(CallTimeout):
        next(watch.events(timeout=0.05))


def test_what_the_guest_is(client: AgentClient) -> None:
    hello = client.hello()
    info = client.system.info()
    assert hello.protocol == info.protocol == 1
    assert hello.agent == info.agent
    assert {"exec", "process", "file", "system"} <= hello.capabilities
    assert hello.limits["connections"] > 0
    assert (info.kernel, info.architecture) == (os.uname().release, os.uname().machine)
    assert info.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert info.uptime > 0
    assert {"cpu", "memory", "disk", "load", "processes", "agent"} <= client.system.metrics().keys()
