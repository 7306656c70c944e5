"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bouvet.errors import ImageError


@contextlib.contextmanager
def replacing(target: Path, *, mode: int = 0o644) -> Iterator[int]:
    """Yield the descriptor of a new file that takes the target's place when the block ends well.

    The new file has no name until then where the file system can do that, so that not even `kill -9`
    leaves a part of it behind.

    Raises:
        ImageError: The directory cannot be written or is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = None
        try:
            descriptor = os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                raise
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            os.fchmod(descriptor, mode)
            yield descriptor
            os.fsync(descriptor)
            name = name or _give_name(descriptor, target)
            Path(name).replace(target)
            name = None
        finally:
            os.close(descriptor)
            if name is not None:
                Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _give_name(descriptor: int, target: Path) -> str:
    """Link a nameless file beside its target, under a name that nobody else has."""
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            name = f".{target.name}.{secrets.token_hex(8)}"
            # With a directory's descriptor Python calls linkat(2), which follows /proc's link.
            with contextlib.suppress(FileExistsError):
                os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory, follow_symlinks=True)
                return str(target.parent / name)
    finally:
        os.close(directory)


def _cannot_write(target: Path, error: OSError) -> ImageError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return ImageError(
        f"cannot write {target}: {error.strerror}",
        hint="make room on that disk, or name another directory by --output"
        if full
        else "name a directory that you may write by --output",
    )
