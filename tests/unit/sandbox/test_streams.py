"""Streams from guests and to them, also from those that mean harm."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import RequestRefused
from bouvet.sandbox import AgentClient, CallTimeout, ConnectionLost
from bouvet.sandbox.streams import Download, Upload
from tests.unit.sandbox.scripts import Guest, next_request, respond, tell

SECONDS = 60.0
END = struct.pack(">I", 0)
ABORTED = struct.pack(">I", 0xFFFFFFFF)

Dial = Callable[[Guest], socket.socket]


def frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def ended(count: int, **more: object) -> bytes:
    return tell("stream.end", request=1, bytes=count, **more)


def read_frames(stream: Any) -> bytes | None:
    """Return what a stream's frames hold; None if it is given up."""
    data = b""
    while (header := stream.read(4)) and (length := struct.unpack(">I", header)[0]):
        if length == 0xFFFFFFFF:
            return None
        data += stream.read(length)
    return data if header else None


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connect with a guest that does as a function says, in a thread, and then hangs up."""
    threads: list[threading.Thread] = []

    def start(guest: Guest) -> socket.socket:
        ours, theirs = socket.socketpair()

        def live() -> None:
            # The client may hang up in the middle of it.
            with theirs, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                guest(theirs)

        threads.append(threading.Thread(target=live))
        threads[-1].start()
        return ours

    yield start
    for thread in threads:
        thread.join()


def sending(*said: bytes, result: dict[str, Any] | None = None) -> Guest:
    """Return a guest that answers a request, sends what it has to say, and waits for the client's end."""

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        guest.sendall(respond(next_request(stream)["id"], result=result or {}))
        for piece in said:
            guest.sendall(piece)
        stream.read()

    return live


def test_a_download_is_all_its_frames(dial: Dial) -> None:
    connection = dial(
        sending(frame(b"ab"), frame(b"\0" * (1 << 20)), END, ended(2 + (1 << 20)), result={"size": 9})
    )
    with Download(connection, {"path": "/x"}, timeout=SECONDS) as stream:
        assert stream.size == 9
        assert b"".join(stream) == b"ab" + b"\0" * (1 << 20)


def test_a_download_that_is_refused(dial: Dial) -> None:
    def live(guest: socket.socket) -> None:
        error = {"code": -32603, "message": "no such file", "data": {"errno": "ENOENT"}}
        guest.sendall(respond(next_request(guest.makefile("rb"))["id"], error=error))

    with pytest.raises(RequestRefused) as refusal:
        Download(dial(live), {"path": "/x"}, timeout=SECONDS)
    assert refusal.value.errno == "ENOENT"


def test_a_download_that_fails_in_the_middle(dial: Dial) -> None:
    error = {"code": -32603, "message": "read error", "data": {"errno": "EIO"}}
    with Download(dial(sending(frame(b"ab"), ABORTED, ended(2, error=error))), {"path": "/x"}) as stream:
        pieces = iter(stream)
        assert next(pieces) == b"ab"
        with pytest.raises(RequestRefused) as refusal:
            next(pieces)
    assert refusal.value.errno == "EIO"


HOSTILE: dict[str, list[bytes]] = {
    "a frame that is too long": [struct.pack(">I", (1 << 20) + 1)],
    "a frame of almost 4 GiB": [struct.pack(">I", 0xFFFFFFFE)],
    "another count than was sent": [frame(b"ab"), END, ended(3)],
    "no count": [END, tell("stream.end", request=1)],
    "another notification": [END, tell("process.exit", id="p1")],
    "a response in the end's place": [END, respond(1, result={})],
    "an end of megabytes": [END, b"x" * (1 << 20)],
    "garbage in the end's place": [END, b"\xff\n"],
    "given up without a reason": [ABORTED, ended(0)],
    "an error that is none": [ABORTED, ended(0, error="no")],
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
def test_nonsense_in_a_stream_is_told(dial: Dial, said: list[bytes]) -> None:
    with Download(dial(sending(*said)), {"path": "/x"}, timeout=SECONDS) as stream:
        with pytest.raises(AgentError) as failure:
            list(stream)
        assert not isinstance(failure.value, RequestRefused | CallTimeout | ConnectionLost)
        assert len(failure.value.message) < 1000


def test_a_stream_that_stops_in_the_middle(dial: Dial) -> None:
    stuck = dial(sending(frame(b"ab")[:5]))
    with Download(stuck, {"path": "/x"}, timeout=0.1) as stream, pytest.raises(CallTimeout):
        list(stream)

    def leaving(guest: socket.socket) -> None:
        guest.sendall(respond(next_request(guest.makefile("rb"))["id"], result={}) + frame(b"ab")[:5])

    with Download(dial(leaving), {"path": "/x"}, timeout=SECONDS) as stream, pytest.raises(ConnectionLost):
        list(stream)


def test_an_upload_is_answered_once_at_its_end(dial: Dial) -> None:
    received: list[bytes | None] = []

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        request = next_request(stream)
        assert (request["method"], request["params"]) == ("file.upload", {"path": "/x", "mode": 0o600})
        received.append(read_frames(stream))
        guest.sendall(respond(request["id"], result={"bytes": 3 << 20}))

    with Upload(dial(live), {"path": "/x", "mode": 0o600}, timeout=SECONDS) as stream:
        stream.write(b"y" * (3 << 20))
    assert received == [b"y" * (3 << 20)]


def test_an_upload_that_is_refused_or_cut_short_is_told(dial: Dial) -> None:
    def taking(answer: dict[str, Any]) -> Guest:
        def live(guest: socket.socket) -> None:
            stream = guest.makefile("rb")
            request = next_request(stream)
            read_frames(stream)
            guest.sendall(respond(request["id"], **answer))

        return live

    def upload(answer: dict[str, Any]) -> None:
        with Upload(dial(taking(answer)), {"path": "/x"}, timeout=SECONDS) as stream:
            stream.write(b"y" * 100)

    with pytest.raises(RequestRefused):
        upload({"error": {"code": -32603, "message": "disk full", "data": {"errno": "ENOSPC"}}})
    with pytest.raises(AgentError, match="99 bytes of 100"):
        upload({"result": {"bytes": 99}})


def test_an_upload_that_is_given_up_ends_its_connection(dial: Dial) -> None:
    received: list[bytes | None] = []
    learned = threading.Event()

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        next_request(stream)
        received.append(read_frames(stream))
        learned.set()

    connection = dial(live)

    def upload() -> None:
        with Upload(connection, {"path": "/x"}, timeout=SECONDS) as stream:
            stream.write(b"y")
            raise ValueError

    with pytest.raises(ValueError):
        upload()
    assert connection.fileno() == -1
    assert learned.wait(SECONDS)
    assert received == [None]


def test_a_client_without_another_connection_says_so(dial: Dial) -> None:
    with AgentClient(dial(lambda guest: guest.recv(1))) as client, pytest.raises(AgentError, match="no way"):
        client.files.open_download("/x")


# Whole files and trees.


def test_a_downloaded_file_appears_in_one_piece_or_not_at_all(dial: Dial, tmp_path: Path) -> None:
    said = [sending(frame(b"ab"), END, ended(2)), sending(frame(b"abc"), ABORTED, ended(3))]
    connect = lambda: dial(said.pop(0))  # noqa: E731
    target = tmp_path / "file"
    with AgentClient(dial(lambda guest: guest.recv(1)), connect=connect) as client:
        client.files.download("/x", target)
        assert target.read_bytes() == b"ab"
        with pytest.raises(AgentError):
            client.files.download("/x", target)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"ab"]
        said.append(sending(frame(b"abc"), END, ended(3)))
        with pytest.raises(AgentError, match="limit"):
            client.files.download("/x", target, limit=2)
        assert list(tmp_path.iterdir()) == [target]


def test_an_uploaded_tree_is_an_archive(dial: Dial, tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_text("x")
    (tmp_path / "tree" / "link").symlink_to("/nowhere")
    received: list[bytes] = []

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        request = next_request(stream)
        assert request["params"] == {"path": "/x", "format": "tar"}
        received.append(read_frames(stream) or b"")
        guest.sendall(respond(request["id"], result={"bytes": len(received[0])}))

    with AgentClient(dial(lambda guest: guest.recv(1)), connect=lambda: dial(live)) as client:
        client.files.upload_tree(tmp_path / "tree", "/x")
    with tarfile.open(fileobj=io.BytesIO(received[0])) as archive:
        assert archive.getnames() == ["below", "below/file", "link"]
        assert {(entry.uid, entry.uname) for entry in archive} == {(0, "")}
