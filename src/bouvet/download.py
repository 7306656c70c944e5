"""Downloading files over HTTP: bounded, verified, resumed when they break, and never half there.

Everything that comes from a server is limited in size and time. A transfer that breaks goes on where it
stopped, with a range request (RFC 9110, section 14) that the server may only honour if the file is still
the same one (`If-Range`, section 13.1.5). Certificates are verified, and a redirection may not lead from
`https` to anything else. Proxies come from the environment (`https_proxy`, `no_proxy`), certificates of
one's own from `SSL_CERT_FILE`.

This is urllib and not an HTTP library because nothing here needs one: one request a file, no cookies, no
connection kept, and threads are few.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from bouvet.errors import DownloadError

ATTEMPTS = 4
"""How often a transfer is started before it is given up."""

PAUSE_SECONDS = 0.5
"""How long to wait before the second attempt; twice as long before each further one."""

STALL_SECONDS = 30.0
"""How long the server may be silent."""

_CHUNK = 1 << 18
_HINT = "check the URL, the network and the proxy settings (https_proxy)"
# Others, such as 404, are answers and will be the same the next time.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

Progress = Callable[[int], None]


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    limit: int,
    seconds: float = 900.0,
    cancelled: threading.Event | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the file at `url` to `target`, which is removed again unless its digest is right.

    Args:
        url: An `http` or `https` URL.
        target: The new file.
        sha256: The expected digest in hexadecimal.
        limit: The most bytes it may have.
        seconds: The most time that it may take, all attempts together.
        cancelled: Ends the transfer when it is set, as soon as the server sends or is silent for long.
        progress: Called with the number of bytes that are there.

    Raises:
        DownloadError: It cannot be had, is too large, takes too long, or has another digest.
    """
    with contextlib.ExitStack() as failing:
        failing.callback(target.unlink, missing_ok=True)
        with target.open("xb") as file:
            found = _Transfer(
                url, file, limit=limit, seconds=seconds, cancelled=cancelled, progress=progress
            ).run()
        if found != sha256.lower():
            raise wrong_digest(url, sha256.lower(), found)
        failing.pop_all()


def fetch(url: str, *, limit: int, seconds: float = 120.0, cancelled: threading.Event | None = None) -> bytes:
    """Return the content of a small file whose digest is not known beforehand.

    Args:
        url: An `http` or `https` URL.
        limit: The most bytes it may have.
        seconds: The most time that it may take, all attempts together.
        cancelled: Ends the transfer when it is set.

    Raises:
        DownloadError: It cannot be had, is too large, or takes too long.
    """
    content = io.BytesIO()
    _Transfer(url, content, limit=limit, seconds=seconds, cancelled=cancelled).run()
    return content.getvalue()


def published_sha256(url: str, text: bytes) -> str:
    """Return the digest, in small letters, that a `.sha256` file begins with (as sha256sum(1) writes it).

    Raises:
        DownloadError: It begins with something else.
    """
    found = _SHA256.match(text.decode("ascii", "replace").lstrip())
    if found is None:
        raise DownloadError(f"{url} holds no SHA-256: 64 hexadecimal digits")
    return found[0].lower()


def wrong_digest(url: str, expected: str, found: str) -> DownloadError:
    """Return the error for a file of another digest than was announced, both in hexadecimal."""
    return DownloadError(
        f"{url} is not the file that was asked for",
        hint="try again; if it stays so, a proxy changes files, or their publisher has to be told",
        details=(f"expected SHA-256 {expected}", f"found SHA-256    {found}"),
    )


class _Broken(Exception):
    """A transfer ended before the file did, and may be tried again."""


class _Transfer:
    """The attempts to get one file into `file`, which is empty and can be truncated."""

    def __init__(
        self,
        url: str,
        file: IO[bytes],
        *,
        limit: int,
        seconds: float,
        cancelled: threading.Event | None,
        progress: Progress | None = None,
    ) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise DownloadError(
                f"{url} cannot be downloaded", hint="the URL has to begin with http:// or https://"
            )
        self._url = url
        self._file = file
        self._limit = limit
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._cancelled = cancelled or threading.Event()
        self._progress = progress
        # What the server calls this state of the file; without it nothing can be resumed.
        self._validator: str | None = None
        self._received = 0
        self._digest = hashlib.sha256()

    def run(self) -> str:
        """Receive the whole file; return its SHA-256 in hexadecimal."""
        broken: _Broken | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = PAUSE_SECONDS * 2 ** (attempt - 1)
                self._cancelled.wait(min(pause, max(0.0, self._deadline - time.monotonic())))
            self._check()
            try:
                self._attempt()
            except _Broken as error:
                broken = error
            else:
                return self._digest.hexdigest()
        raise self._error(f"{broken} ({ATTEMPTS} attempts)") from broken

    def _attempt(self) -> None:
        before = self._received
        try:
            with self._open() as reply:
                size = self._size(reply)
                if size is not None and size > self._limit:
                    raise self._too_large()
                while piece := reply.read1(_CHUNK):
                    self._take(piece)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error.code, str(error.reason))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._failed(error, silent=self._received == before)
        else:
            if size is not None and self._received != size:
                raise _Broken(f"it ended after {self._received} of {size} bytes")

    def _open(self) -> http.client.HTTPResponse:
        request = urllib.request.Request(  # noqa: S310  (the scheme is checked)
            self._url,
            headers={"User-Agent": "bouvet", "Accept-Encoding": "identity"},
        )
        if self._received and self._validator is not None:
            request.add_header("Range", f"bytes={self._received}-")
            request.add_header("If-Range", self._validator)
        opener = urllib.request.build_opener(_Redirects)
        return cast("http.client.HTTPResponse", opener.open(request, timeout=STALL_SECONDS))

    def _size(self, reply: http.client.HTTPResponse) -> int | None:
        """Make ready for what the reply brings; return the whole file's size if the server tells it."""
        if reply.status == http.HTTPStatus.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self._received:
                self._start_again()
                raise _Broken("the server sent another part of the file than was asked for")
            return int(found[2]) + 1 if found[3] == "*" else int(found[3])
        self._start_again()
        tag = reply.headers.get("ETag", "")
        # A weak tag says nothing about single bytes (RFC 9110, section 8.8.3).
        self._validator = tag if tag.startswith('"') else reply.headers.get("Last-Modified")
        return reply.length

    def _start_again(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._received = 0
        self._digest = hashlib.sha256()

    def _take(self, piece: bytes) -> None:
        self._received += len(piece)
        if self._received > self._limit:
            raise self._too_large()
        self._check()
        self._digest.update(piece)
        self._file.write(piece)
        if self._progress is not None:
            self._progress(self._received)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise self._error("it was ended")
        if time.monotonic() > self._deadline:
            raise self._error(f"it takes too long (more than {self._seconds:g} s)")

    def _refused(self, status: int, reason: str) -> None:
        if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._start_again()
        elif status not in _TRANSIENT:
            raise self._error(f"the server answered {status} {reason}")
        raise _Broken(f"the server answered {status} {reason}")

    def _failed(self, error: Exception, *, silent: bool) -> None:
        """Tell what may be tried again from what would only fail again."""
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            said = f"the server was silent for {STALL_SECONDS:g} s"
            if silent:
                raise self._error(said) from error
            raise _Broken(said) from error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise self._error(f"the server's certificate is not valid: {cause.verify_message}") from error
        if isinstance(error, OSError | http.client.HTTPException) and not isinstance(
            error, http.client.InvalidURL
        ):
            raise _Broken(str(cause) or type(cause).__name__) from error
        raise self._error(str(cause)) from error

    def _too_large(self) -> DownloadError:
        return DownloadError(f"{self._url} is larger than {self._limit} bytes, the most that it may have")

    def _error(self, reason: str) -> DownloadError:
        with contextlib.suppress(ValueError):
            if server := urllib.parse.urlsplit(self._url).hostname:
                return DownloadError(f"{self._url} cannot be downloaded from {server}: {reason}", hint=_HINT)
        return DownloadError(f"{self._url} cannot be downloaded: {reason}", hint=_HINT)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, at most ten as urllib does, but none that gives up encryption."""

    def redirect_request(  # noqa: PLR0917  (urllib's signature)
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Refuse to go from `https` to another scheme, and to anything that is not HTTP."""
        scheme = urllib.parse.urlsplit(newurl).scheme.lower()
        if scheme not in {"http", "https"} or (req.type == "https" and scheme != "https"):
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
