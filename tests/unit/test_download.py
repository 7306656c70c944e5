"""Downloads, from a server on the loopback interface that behaves as the path says."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bouvet import download as module
from bouvet.download import download, fetch, published_sha256
from bouvet.errors import DownloadError

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@dataclass
class Server:
    """The server's address, and each request's path and `Range`."""

    url: str
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    elsewhere: str = "ftp://127.0.0.1/file"
    hold: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    """Each path is a way to behave; `first` tells a path's first request from later ones."""

    state: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.first = self.path not in [path for path, _ in self.state.requests]
        self.state.requests.append((self.path, wanted))
        with contextlib.suppress(ConnectionError):
            getattr(self, self.path.removeprefix("/").replace("-", "_"))()

    def reply(
        self,
        body: bytes,
        *,
        length: int | None = None,
        status: int = 200,
        tag: str | None = '"v1"',
        content_range: str | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if tag is not None:
            self.send_header("ETag", tag)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def rest(self, *, tag: str | None = '"v1"') -> None:
        """Answer a range request as RFC 9110 has it: If-Range decides between a part and the whole."""
        wanted = self.headers.get("Range")
        if wanted is None or self.headers.get("If-Range") != tag:
            self.reply(CONTENT, tag=tag)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        part = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.reply(CONTENT[start:], status=206, tag=tag, content_range=part)

    def whole(self) -> None:
        self.reply(CONTENT)

    def missing(self) -> None:
        self.send_error(404)

    def moved(self) -> None:
        self.redirect("/whole")

    def around(self) -> None:
        self.redirect("/around")

    def elsewhere(self) -> None:
        self.redirect(self.state.elsewhere)

    def redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def cut(self) -> None:
        self.reply(CONTENT[:1000], length=len(CONTENT))

    def broken(self) -> None:
        if self.first:
            self.reply(CONTENT[:HALF], length=len(CONTENT))
        else:
            self.rest()

    def changed(self) -> None:
        if self.first:
            self.reply(b"old" * 1000, length=len(CONTENT), tag='"v0"')
        else:
            self.rest()

    def unnamed(self) -> None:
        self.reply(CONTENT[: HALF if self.first else None], length=len(CONTENT), tag=None)

    def weak(self) -> None:
        self.reply(CONTENT[: HALF if self.first else None], length=len(CONTENT), tag='W/"v1"')

    def another_part(self) -> None:
        if self.headers.get("Range"):
            self.reply(CONTENT[:10], status=206, content_range=f"bytes 0-9/{len(CONTENT)}")
        else:
            self.reply(CONTENT[: HALF if self.first else None], length=len(CONTENT))

    def beyond(self) -> None:
        if self.headers.get("Range"):
            self.send_error(416)
        else:
            self.reply(CONTENT[: HALF if self.first else None], length=len(CONTENT))

    def busy(self) -> None:
        if self.first:
            self.send_error(503)
        else:
            self.reply(CONTENT)

    def silent(self) -> None:
        self.state.hold.wait(20)

    def halting(self) -> None:
        if self.first:
            self.reply(CONTENT[:HALF], length=len(CONTENT))
            self.wfile.flush()
            self.state.hold.wait(20)
        else:
            self.rest()

    def large(self) -> None:
        self.reply(b"", length=1 << 50)

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Requests are recorded, not printed."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server("")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Bound", (Handler,), {"state": server})
    ) as listener:
        if context is not None:
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
        server.url = f"http{'s' if context else ''}://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.hold.set()
            listener.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    with serving() as started:
        yield started


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


def get(server: Server, path: str, target: Path, *, limit: int = len(CONTENT)) -> None:
    download(server.url + path, target, sha256=DIGEST.upper(), limit=limit)


@pytest.mark.parametrize("path", ["/whole", "/moved"])
def test_a_file_with_the_right_digest_arrives(server: Server, target: Path, path: str) -> None:
    get(server, path, target)
    assert target.read_bytes() == CONTENT


def test_progress_is_told(server: Server, target: Path) -> None:
    told: list[int] = []
    download(server.url + "/whole", target, sha256=DIGEST, limit=1 << 30, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)


def test_another_digest_names_both_and_leaves_nothing(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        download(server.url + "/whole", target, sha256="0" * 64, limit=len(CONTENT))
    assert caught.value.details == ("expected SHA-256 " + "0" * 64, f"found SHA-256    {DIGEST}")
    assert not target.exists()
    assert len(server.requests) == 1, "a wrong file is not asked for again and again"


@pytest.mark.parametrize(
    ("path", "message", "attempts"),
    [
        ("/missing", "127.0.0.1: the server answered 404", 1),
        ("/large", f"larger than {len(CONTENT)} bytes", 1),
        ("/endless", f"larger than {len(CONTENT)} bytes", 1),
        ("/cut", f"ended after 1000 of {len(CONTENT)} bytes .4 attempts", 4),
        ("/elsewhere", "leads to ftp://", 1),
    ],
)
def test_a_bad_answer_leaves_nothing(
    server: Server, target: Path, path: str, message: str, attempts: int
) -> None:
    with pytest.raises(DownloadError, match=message):
        get(server, path, target)
    assert not target.exists()
    assert len(server.requests) == attempts


def test_a_redirection_in_circles_ends(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match="302"):
        get(server, "/around", target)
    assert len(server.requests) < 20


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, target: Path) -> None:
    get(server, "/broken", target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_transfer_that_stalls_goes_on_where_it_stopped(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.3)
    get(server, "/halting", target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(
    ("path", "ranges"),
    [
        # The file has changed: If-Range lets the server send all of it.
        ("/changed", [None, "bytes=3000-"]),
        # Nothing tells whether it is the same file.
        ("/unnamed", [None, None]),
        ("/weak", [None, None]),
        # The server's own errors.
        ("/another-part", [None, f"bytes={HALF}-", None]),
        ("/beyond", [None, f"bytes={HALF}-", None]),
        ("/busy", [None, None]),
    ],
)
def test_what_cannot_be_resumed_is_started_again(
    server: Server, target: Path, path: str, ranges: list[str | None]
) -> None:
    get(server, path, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ranges


def test_a_silent_server_is_named_and_given_up(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    with pytest.raises(DownloadError, match=r"from 127\.0\.0\.1: the server was silent for 0\.2 s"):
        get(server, "/silent", target)
    assert len(server.requests) == 1
    assert not target.exists()


def test_a_slow_server_is_given_up(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match="takes too long"):
        download(server.url + "/endless", target, sha256=DIGEST, limit=1 << 40, seconds=0.3)
    assert not target.exists()


def test_a_transfer_can_be_ended(server: Server, target: Path) -> None:
    cancelled = threading.Event()
    with pytest.raises(DownloadError, match="it was ended"):
        download(
            server.url + "/endless",
            target,
            sha256=DIGEST,
            limit=1 << 40,
            cancelled=cancelled,
            progress=lambda received: cancelled.set(),
        )
    assert not target.exists()


def test_nobody_listens(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"from 127\.0\.0\.1: .*refused"):
        download("http://127.0.0.1:1/file", target, sha256=DIGEST, limit=1)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/file", "/etc/passwd", "http://[", "http://"]
)
def test_other_urls_are_refused(url: str, target: Path) -> None:
    with pytest.raises(DownloadError):
        download(url, target, sha256=DIGEST, limit=1 << 20)
    assert not target.exists()


def test_a_file_that_is_there_is_not_overwritten(server: Server, target: Path) -> None:
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        get(server, "/whole", target)


def test_a_small_file_is_fetched_and_bounded(server: Server) -> None:
    assert fetch(server.url + "/broken", limit=len(CONTENT)) == CONTENT
    with pytest.raises(DownloadError, match="larger than"):
        fetch(server.url + "/whole", limit=len(CONTENT) - 1)


def test_a_proxy_of_the_environment_is_used(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match="refused"):
        get(server, "/whole", target)
    assert server.requests == []


@pytest.mark.needs_tool("openssl")
def test_certificates_are_verified_and_encryption_is_kept(
    server: Server, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    files = "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certificate.pem"
    argv = [*make.split(), *files.split()]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with serving(context) as secure:
        with pytest.raises(DownloadError, match="certificate is not valid"):
            get(secure, "/whole", target)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        get(secure, "/whole", target)
        assert target.read_bytes() == CONTENT
        target.unlink()
        secure.elsewhere = server.url + "/whole"
        with pytest.raises(DownloadError, match="leads to http://"):
            get(secure, "/elsewhere", target)


@pytest.mark.parametrize(
    "text", [f"{DIGEST}  file\n", f"{DIGEST.upper()} *./target/file\n", f"\n{DIGEST}", DIGEST]
)
def test_a_published_digest_is_read(text: str) -> None:
    assert published_sha256("http://x/file.sha256", text.encode()) == DIGEST


@pytest.mark.parametrize("text", [b"", b"not found", b"\xff" * 64, DIGEST[1:].encode()])
def test_what_is_no_digest_is_refused(text: bytes) -> None:
    with pytest.raises(DownloadError, match="holds no SHA-256"):
        published_sha256("http://x/file.sha256", text)
