"""A server of files on the loopback interface that fails as it is told."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

FAULTS = ("missing", "corrupt", "cut", "hanging", "endless", "oversized")
"""Ways to fail for ever."""

HARMLESS_FAULTS = ("broken-once", "busy-once", "moved")
"""Ways to be difficult that a client should live with."""


@dataclass
class FileServer:
    """What is served, how each path fails, and what was asked for.

    Attributes:
        url: Its address.
        files: Content by path, without a slash at its begin.
        faults: One of FAULTS or HARMLESS_FAULTS by path.
        requests: The paths that were asked for, in order.
        hold: Set at the end: what hangs ends then.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)


class _Handler(http.server.BaseHTTPRequestHandler):
    state: FileServer

    def do_GET(self) -> None:
        path = self.path.removeprefix("/")
        first = path not in self.state.requests
        self.state.requests.append(path)
        content = self.state.files.get(path.removeprefix("elsewhere/"))
        fault = self.state.faults.get(path, "")
        with contextlib.suppress(ConnectionError):
            if content is None or fault == "missing":
                self.send_error(404)
            elif fault == "corrupt":
                middle = len(content) // 2
                self.send(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            elif fault == "cut" or (fault == "broken-once" and first):
                self.send(content[: len(content) // 2], length=len(content))
            elif fault == "hanging":
                self.state.hold.wait(20)
            elif fault == "endless":
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(bytes(1 << 20))
            elif fault == "oversized":
                self.send(content, length=1 << 50)
            elif fault == "busy-once" and first:
                self.send_error(503)
            elif fault == "moved":
                self.send_response(302)
                self.send_header("Location", f"/elsewhere/{path}")
                self.end_headers()
            else:
                self.send(content)

    def send(self, content: bytes, *, length: int | None = None) -> None:
        """Answer with content, or with the rest of it where a range was asked for."""
        start = 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == '"one"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str((len(content) if length is None else length) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        """Requests are recorded, not printed."""


@contextlib.contextmanager
def serving() -> Iterator[FileServer]:
    """Serve files until the block ends; none at first."""
    state = FileServer()
    handler = type("BoundHandler", (_Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield state
        finally:
            state.hold.set()
            server.shutdown()
            thread.join()
