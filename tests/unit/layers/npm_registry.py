"""An npm registry on the loopback interface: documents and tarballs, as npm's registry API has them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

NPM_TIME = 499162500
"""The modification time of everything in a package (1985-10-26), as npm packs it."""

PUBLISHED = "2020-01-01T00:00:00.000Z"
"""When everything was published that has no time of its own."""


def pack(files: Mapping[str, bytes | tuple[bytes, int]]) -> bytes:
    """Return a package's tarball; a file is its content, or its content and mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, value in files.items():
            content, mode = value if isinstance(value, tuple) else (value, 0o644)
            member = tarfile.TarInfo(f"package/{name}")
            member.size, member.mode, member.mtime = len(content), mode, NPM_TIME
            member.uid = member.gid = 1000
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def integrity(content: bytes) -> str:
    """Return a digest in the form of Subresource Integrity."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


@dataclass
class Registry:
    """What the registry serves, which paths were asked for, and when versions were published."""

    url: str
    packages: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tarballs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    times: dict[tuple[str, str], str] = field(default_factory=dict)

    def publish(self, package: str, version: str, content: bytes, *, engines: str | None = None) -> None:
        """Add a version."""
        path = f"/{package}/-/{package}-{version}.tgz"
        metadata: dict[str, Any] = {
            "name": package,
            "version": version,
            "dist": {"integrity": integrity(content), "tarball": self.url + path},
        }
        if engines is not None:
            metadata["engines"] = {"node": engines}
        self.packages.setdefault(package, {})[version] = metadata
        self.tarballs[path] = content

    def answer(self, path: str) -> bytes | None:
        """Return the body for a request, or None for 404."""
        self.requests.append(path)
        if path in self.tarballs:
            return self.tarballs[path]
        versions = self.packages.get(path.removeprefix("/"))
        if versions is None:
            return None
        latest = list(versions)[-1]
        times = {version: self.times.get((path[1:], version), PUBLISHED) for version in versions}
        document = {"name": path[1:], "dist-tags": {"latest": latest}, "versions": versions, "time": times}
        return json.dumps(document).encode()


@contextlib.contextmanager
def serving() -> Iterator[Registry]:
    """Serve an empty registry until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = registry.answer(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body or b"{}")))
            self.end_headers()
            self.wfile.write(body or b"{}")

        def log_message(self, *_: object) -> None:
            """Requests are recorded, not printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = Registry(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
