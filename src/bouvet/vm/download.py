"""Downloading one file whose digest is known beforehand."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from bouvet.errors import KernelError

CHUNK = 1 << 18
STALL_SECONDS = 30.0
"""How long the server may be silent."""


def download(url: str, target: Path, *, sha256: str, limit: int, seconds: float = 900.0) -> None:
    """Write the file at `url` to `target`, which is removed again unless its digest is right.

    Args:
        url: An `http` or `https` URL.
        target: The new file.
        sha256: The expected digest in hexadecimal.
        limit: The most bytes it may have.
        seconds: The most time that it may take.

    Raises:
        KernelError: It cannot be had, is too large, takes too long, or has another digest.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise KernelError(f"{url} cannot be downloaded", hint="the URL has to begin with http:// or https://")
    with contextlib.ExitStack() as failing:
        failing.callback(target.unlink, missing_ok=True)
        found = _receive(url, target, limit, time.monotonic() + seconds)
        if found != sha256.lower():
            raise KernelError(
                f"{url} is not the file that was asked for",
                hint="check the URL and its SHA-256 with those who published it",
                details=(f"expected SHA-256 {sha256.lower()}", f"found SHA-256    {found}"),
            )
        failing.pop_all()


def _receive(url: str, target: Path, limit: int, deadline: float) -> str:
    state = hashlib.sha256()
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=STALL_SECONDS) as reply, target.open("xb") as file:  # noqa: S310  (the scheme is checked)
            while piece := reply.read1(CHUNK):
                received += len(piece)
                if received > limit:
                    raise KernelError(f"{url} is larger than {limit >> 20} MiB")
                if time.monotonic() > deadline:
                    raise KernelError(f"the download of {url} takes too long")
                state.update(piece)
                file.write(piece)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise KernelError(
            f"{url} cannot be downloaded: {reason}",
            hint="check the URL, the network and the proxy settings (https_proxy)",
        ) from error
    return state.hexdigest()
