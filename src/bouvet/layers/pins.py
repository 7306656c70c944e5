"""What a lock says of single artifacts, for makers that get a few of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bouvet.errors import CommandFailed, DownloadError, LayerError, LockError

if TYPE_CHECKING:
    from bouvet.plan.provenance import Artifact, Locked

HINT = "take a newer one: bouvet lock --update"


def pinned(locked: Locked | None, name: str) -> Artifact | None:
    """Return the artifact that a lock demands, None where any may be chosen.

    Raises:
        LockError: The lock is complete, and has no such artifact.
    """
    if locked is None:
        return None
    found = next((artifact for artifact in locked.artifacts if artifact.name == name), None)
    if found is None and locked.complete:
        raise LockError(f"the lock says nothing of {name}", hint="write it anew: bouvet lock")
    return found


@contextlib.contextmanager
def demanded(artifacts: Sequence[Artifact | None]) -> Iterator[None]:
    """Let an error of the block say that locked artifacts cannot be had; Nones are not locked."""
    try:
        yield
    except (DownloadError, LayerError, CommandFailed) as error:
        locked = [str(artifact) for artifact in artifacts if artifact is not None]
        if not locked:
            raise
        raise LockError(
            f"what the lock names cannot be had: {error.message}",
            hint=HINT,
            details=(*locked, *error.details),
        ) from error


@contextlib.contextmanager
def taken_from(locked: Locked | None) -> Iterator[None]:
    """Let a package manager's failure say that what a complete lock names cannot be had."""
    try:
        yield
    except CommandFailed as error:
        if locked is None or not locked.complete:
            raise
        raise LockError(
            f"what the lock names cannot be had: {error.message}",
            hint=error.hint or HINT,
            details=error.details,
        ) from error


def check(found: Sequence[Artifact], locked: Locked | None) -> None:
    """Demand that what was installed is what a complete lock says.

    Raises:
        LockError: It is not; the details list what differs.
    """
    if locked is None or not locked.complete:
        return
    problems = [
        f"{each}: is in the lock and was not installed" for each in sorted({*locked.artifacts} - {*found})
    ]
    problems += [
        f"{each}: was installed and is not in the lock" for each in sorted({*found} - {*locked.artifacts})
    ]
    if problems:
        raise LockError(
            "what was installed is not what the lock says",
            hint="write the lock anew: bouvet lock --update",
            details=tuple(problems),
        )
