"""Files that programs of a tree left in a directory of the host: a link, a pipe or a device may be there."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from bouvet.errors import LayerError

LARGEST = 256 << 20
"""Bytes that such a file may have which is read as a whole."""


def open_left(path: Path) -> io.BufferedReader:
    """Open a regular file for reading, and nothing else.

    Raises:
        LayerError: It is something else.
        FileNotFoundError: There is none.
    """
    try:
        # Not to wait for who writes into a pipe, nor to read what a link leads to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LayerError(f"{path.name}, which was left by the step's programs, is no file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LayerError(f"{path.name}, which was left by the step's programs, is no file")
    return os.fdopen(descriptor, "rb")


def read_left(path: Path, limit: int = LARGEST) -> bytes:
    """Return a regular file's content.

    Raises:
        LayerError: It is something else, or has more bytes than `limit`.
        FileNotFoundError: There is none.
    """
    with open_left(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise LayerError(f"{path.name}, which was left by the step's programs, is larger than {limit} bytes")
    return content
