"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def reworking(target: Path, expected: Callable[[os.stat_result], bool]) -> Iterator[int | None]:
    """Yield the descriptor of the target itself, to be changed in place, or None if that cannot be.

    It cannot be where the target is not as expected, has another name, or somebody has it open: such
    a one must go on seeing what it opened. Until the block ends well the target has a hidden name, so
    that half a change never goes by the target's; if it ends badly, the target is gone.

    Raises:
        ImageError: The file cannot be written.
    """
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(8)}.changing")
    try:
        _remove_left_behind(target)
        descriptor = _take_alone(target, expected)
        if descriptor is None:
            yield None
            return
        try:
            target.rename(hidden)
            if fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
                # Somebody waits to open what the target was.
                hidden.rename(target)
                yield None
                return
            try:
                yield descriptor
                os.fsync(descriptor)
            except BaseException:
                hidden.unlink()
                raise
            hidden.rename(target)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _remove_left_behind(target: Path) -> None:
    """Remove what killed processes were changing; what others change now is theirs alone."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.changing"):
        descriptor = _take_alone(path, lambda _: True)
        if descriptor is not None:
            path.unlink()
            os.close(descriptor)


def _take_alone(path: Path, expected: Callable[[os.stat_result], bool]) -> int | None:
    """Open a file that nobody else has open; None if there is no such one.

    A write lease (fcntl(2), F_SETLEASE) is given for no other, and makes who opens it later wait.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    state = os.fstat(descriptor)
    try:
        if stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and expected(state):
            # Who waits is told by a signal: by one that does nothing, unlike the usual SIGIO.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            return descriptor
    except OSError:
        pass  # somebody has it open, or the file system knows no leases
    os.close(descriptor)
    return None


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
