"""Downloads, from a server on the loopback interface."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.errors import KernelError
from bouvet.vm import download as module
from bouvet.vm.download import download

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in the manner that the path says."""

    hold = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if self.path == "/cut":
                self.wfile.write(CONTENT[:1000])
            elif self.path == "/silent":
                self.hold.wait(20)
            elif self.path == "/endless":
                while True:
                    self.wfile.write(CONTENT)
            else:
                self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.hold.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            Handler.hold.set()
            listener.shutdown()
            thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("path", ["/whole", "/moved"])
def test_a_file_with_the_right_digest_arrives(server: str, target: Path, path: str) -> None:
    download(server + path, target, sha256=DIGEST.upper(), limit=len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_another_digest_names_both_and_leaves_nothing(server: str, target: Path) -> None:
    with pytest.raises(KernelError) as caught:
        download(server + "/whole", target, sha256="0" * 64, limit=len(CONTENT))
    assert "0" * 64 in caught.value.details[0]
    assert DIGEST in caught.value.details[1]
    assert not target.exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [("/missing", "Not Found"), ("/endless", "larger than"), ("/cut", "not the file")],
)
def test_a_bad_answer_leaves_nothing(server: str, target: Path, path: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        download(server + path, target, sha256=DIGEST, limit=len(CONTENT))
    assert not target.exists()


def test_a_silent_server_is_given_up(server: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.2)
    with pytest.raises(KernelError, match="timed out"):
        download(server + "/silent", target, sha256=DIGEST, limit=len(CONTENT))


def test_a_slow_server_is_given_up(server: str, target: Path) -> None:
    with pytest.raises(KernelError, match="too long"):
        download(server + "/endless", target, sha256=DIGEST, limit=1 << 40, seconds=0.3)


def test_nobody_listens(server: str, target: Path) -> None:
    with pytest.raises(KernelError, match="refused"):
        download("http://127.0.0.1:1/file", target, sha256=DIGEST, limit=1)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/file", "/etc/passwd", "http://[", "http://"]
)
def test_other_urls_are_refused(url: str, target: Path) -> None:
    with pytest.raises(KernelError):
        download(url, target, sha256=DIGEST, limit=1 << 20)
    assert not target.exists()
