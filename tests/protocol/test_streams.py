"""Streams of files: raw bytes in frames, on a connection that carries nothing else meanwhile."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bouvet.protocol import FRAME_LIMIT, Mark, RequestRefused, encode_header
from tests.protocol.conftest import Agent, Connection


def upload(connection: Connection, frames: bytes, **params: Any) -> int:
    """Send a request and what follows it in one piece, and return how many bytes were taken."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "file.upload", "params": params}
    connection.socket.sendall(json.dumps(request).encode() + b"\n" + frames)
    answer = connection.read()
    if answer.error is not None:
        raise answer.error
    taken: int = answer.result["bytes"]
    return taken


def frames(*pieces: bytes, end: Mark = Mark.END) -> bytes:
    return b"".join(encode_header(len(piece)) + piece for piece in pieces) + encode_header(end)


def test_an_upload_is_answered_once_and_requests_go_on(connection: Connection, tmp_path: Path) -> None:
    content = os.urandom(FRAME_LIMIT)
    path = tmp_path / "new" / "file"
    assert upload(connection, frames(b"a", content, b"z"), path=str(path), mode=0o4710) == FRAME_LIMIT + 2
    assert path.read_bytes() == b"a" + content + b"z"
    assert path.stat().st_mode & 0o7777 == 0o4710
    assert connection.call("ping") == {"pong": True}


def test_a_stream_that_is_refused_is_dropped_to_its_end(connection: Connection, tmp_path: Path) -> None:
    stream = frames(b'{"jsonrpc":"2.0","id":9,"method":"ping"}\n' * 20_000)
    with pytest.raises(RequestRefused) as refused:
        upload(connection, stream, path=str(tmp_path))
    assert refused.value.errno is None
    with pytest.raises(RequestRefused):
        upload(connection, stream, path=str(tmp_path / "f"), unknown=1)
    assert connection.call("ping") == {"pong": True}


def test_nothing_of_an_aborted_upload_stays(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "d" / "file"
    path.parent.mkdir()
    path.write_bytes(b"old")
    with agent.connect() as connection:
        with pytest.raises(RequestRefused):
            upload(connection, frames(b"new", end=Mark.ABORTED), path=str(path))
        assert connection.call("ping") == {"pong": True}
        request = {"jsonrpc": "2.0", "id": 1, "method": "file.upload", "params": {"path": str(path)}}
        connection.socket.sendall(json.dumps(request).encode() + b"\n" + frames(b"new")[:-6])
    with agent.connect() as connection:
        with pytest.raises(RequestRefused):
            upload(connection, encode_header(1) + b"x" + b"\x7f\xff\xff\xff", path=str(path))
        with pytest.raises(EOFError):
            connection.read_line()  # what follows a frame that is none is no request
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def download(connection: Connection, **params: Any) -> tuple[Any, bytes, Any]:
    """Return the response's result, the stream, and the params of its end."""
    request = {"jsonrpc": "2.0", "id": "d", "method": "file.download", "params": params}
    connection.socket.sendall(json.dumps(request).encode() + b"\n")
    reader = connection.socket.makefile("rb")
    answer = json.loads(reader.readline())
    if "error" in answer:
        return answer, b"", None
    content = io.BytesIO()
    while 0 < (length := int.from_bytes(reader.read(4), "big")) <= FRAME_LIMIT:
        content.write(reader.read(length))
    end = json.loads(reader.readline())
    assert end["method"] == "stream.end"
    assert end["params"]["request"] == "d"
    assert end["params"]["bytes"] == len(content.getvalue())
    return answer["result"], content.getvalue(), end["params"]


def test_a_part_of_a_file(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    result, found, _ = download(connection, path=str(path))
    assert (result["size"], found) == (len(content), content)
    result, found, _ = download(connection, path=str(path), offset=2_999_000, length=5000)
    assert (result["size"], found) == (1000, content[-1000:])
    result, found, _ = download(connection, path="/proc/self/status")
    assert "size" not in result
    assert found.startswith(b"Name:")


def test_a_tree_comes_back_as_it_was_sent(connection: Connection, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for name, kind, link, mode in (
            ("d", tarfile.DIRTYPE, "", 0o1755),
            ("d/" + "n" * 200, tarfile.REGTYPE, "", 0o4711),
            ("d/link", tarfile.SYMTYPE, "/nowhere", 0o777),
            ("d/z", tarfile.LNKTYPE, "d/" + "n" * 200, 0o4711),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode, entry.mtime = kind, link, mode, 1_000_000
            entry.uid, entry.gid = os.getuid(), os.getgid()
            entry.size = 300_000 if kind == tarfile.REGTYPE else 0
            writer.addfile(entry, io.BytesIO(b"x" * entry.size))
    stream = archive.getvalue()
    target = str(tmp_path / "tree")
    assert upload(connection, frames(stream[:700], stream[700:]), path=target, format="tar") == len(stream)
    _, found, _ = download(connection, path=target, format="tar")
    with tarfile.open(fileobj=io.BytesIO(found)) as reader:
        members = {entry.name: entry for entry in reader}
    long = "./d/" + "n" * 200
    assert list(members) == [".", "./d", "./d/link", long, "./d/z"]
    assert members["./d"].mode == 0o1755
    assert (members[long].mode, members[long].size, members[long].mtime) == (0o4711, 300_000, 1_000_000)
    assert members["./d/link"].linkname == "/nowhere"
    assert (members["./d/z"].type, members["./d/z"].linkname) == (tarfile.LNKTYPE, long)


def test_streams_cost_little_memory(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    with agent.connect() as connection:
        assert len(download(connection, path=str(path))[1]) == 100 << 20
        piece = b"y" * FRAME_LIMIT
        assert upload(connection, frames(*[piece] * 64), path=str(path)) == 64 << 20
    assert agent.memory_peak() < 8 << 20
