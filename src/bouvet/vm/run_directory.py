"""Run directories: where a machine's sockets and logs are while it lives.

    BASE/                  /tmp/bouvet by default, mode 0700
      MACHINE-ID/          mode 0700
        machine.lock       locked as long as the owner lives
        v.sock, ...

In a directory like `/tmp` others may plant links and directories: each level has to be a directory of
ours that nobody else can enter. A directory with a lock that is free belonged to a bouvet that was
killed; it is removed by the next that starts a machine. Whatever else is there is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from bouvet.errors import MachineError

LOCK_NAME = "machine.lock"


@contextlib.contextmanager
def make_run_directory(base: Path, machine_id: str | None) -> Iterator[Path]:
    """Make a machine's run directory and yield its path; it is removed at the end of the block.

    Args:
        base: The directory of run directories; it is made if needed, its parent is not.
        machine_id: Its name, or None for a random one.

    Raises:
        MachineError: A machine of this id runs, or a directory on the way is not ours alone.
    """
    base_descriptor = _open_base(base)
    try:
        # Nobody makes or removes run directories meanwhile.
        fcntl.flock(base_descriptor, fcntl.LOCK_EX)
        _sweep(base_descriptor)
        name = machine_id or secrets.token_hex(6)
        lock = _make(base_descriptor, base, name)
        fcntl.flock(base_descriptor, fcntl.LOCK_UN)
        try:
            yield base / name
        finally:
            fcntl.flock(base_descriptor, fcntl.LOCK_EX)
            shutil.rmtree(name, dir_fd=base_descriptor, ignore_errors=True)
            os.close(lock)
    finally:
        os.close(base_descriptor)


def _open_base(base: Path) -> int:
    try:
        with contextlib.suppress(FileExistsError):
            base.mkdir(mode=0o700)
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(
            f"the directory for running machines, {base}, cannot be used: {error.strerror}",
            hint="remove what is in its place, or choose another directory",
        ) from error
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        raise MachineError(
            f"the directory for running machines, {base}, is not yours alone",
            hint="it has to be owned by you, with mode 0700; or choose another directory",
            details=(f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",),
        )
    return descriptor


def _make(base: int, path: Path, name: str) -> int:
    """Make the directory and its lock; return the lock's descriptor."""
    try:
        os.mkdir(name, mode=0o700, dir_fd=base)
    except FileExistsError as error:
        raise MachineError(
            f"a machine with the id '{name}' is running", hint=f"its run directory is {path / name}"
        ) from error
    lock = os.open(
        f"{name}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=base
    )
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _sweep(base: int) -> None:
    """Remove the directories of owners that are gone."""
    for name in os.listdir(base):
        if _is_abandoned(base, name):
            shutil.rmtree(name, dir_fd=base, ignore_errors=True)


def _is_abandoned(base: int, name: str) -> bool:
    """Return whether a directory has a lock that nobody holds."""
    try:
        lock = os.open(f"{name}/{LOCK_NAME}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
