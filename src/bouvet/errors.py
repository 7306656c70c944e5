"""Every error that bouvet raises on purpose.

Each class has one exit code, so that a script can tell them apart. The message says what happened;
the hint says what to do about it; the details are the evidence (a tool's last lines, a path, two
digests). The CLI shows all three in one place, and nothing else formats errors.
"""

from __future__ import annotations


class BouvetError(Exception):
    """The base of all errors that are reported to the user without a traceback.

    Args:
        message: What happened, in one sentence, without a trailing newline.
        hint: What the user can do about it, or None where nothing is known to help.
        details: Evidence lines, shown below the message (never needed to understand it).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class SpecError(BouvetError):
    """The spec, a preset's name or an option's value is wrong; nothing was started."""

    exit_code = 2


class ToolMissing(BouvetError):
    """A program that the step needs is not on PATH."""

    exit_code = 3


class CommandFailed(BouvetError):
    """A program ended with a status that was not expected, or ran out of its time."""

    exit_code = 4


class LayerError(BouvetError):
    """A layer could not be made."""

    exit_code = 5


class CacheError(BouvetError):
    """The cache cannot be used: not writable, locked for too long, or of an unknown version."""

    exit_code = 6


class LayerCorrupt(CacheError):
    """A cached layer's bytes are not what they were when it was committed.

    Attributes:
        digest: The layer's digest, so that the pipeline can evict and remake it.
    """

    def __init__(self, message: str, *, digest: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.digest = digest


class ImageError(BouvetError):
    """The image could not be written."""

    exit_code = 7


class ImageTooSmall(ImageError):
    """The content does not fit into the size that was asked for.

    Attributes:
        needed: The smallest size in bytes that would do.
    """

    def __init__(self, message: str, *, needed: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class ImageTooLarge(ImageError):
    """The content needs more than the spec allows.

    Attributes:
        needed: What it needs, in bytes.
    """

    def __init__(
        self, message: str, *, needed: int, hint: str | None = None, details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.needed = needed


class FormatError(BouvetError):
    """Bytes of a file, an image or a stream do not follow their format."""

    exit_code = 8


class VerifyFailed(BouvetError):
    """The image was read or booted, and at least one requirement is not met."""

    exit_code = 9


class MachineError(BouvetError):
    """The virtual machine could not be started, died, or did not become ready."""

    exit_code = 10


class AgentError(BouvetError):
    """The guest's agent refused a request, answered nonsense, or the connection to it was lost."""

    exit_code = 11


class KernelError(BouvetError):
    """A kernel could not be fetched, is not what it should be, or cannot be used."""

    exit_code = 12


class DownloadError(BouvetError):
    """A file could not be downloaded, or is not the one that was announced."""

    exit_code = 13


class LockError(BouvetError):
    """The lock does not fit the spec, is damaged, or something that it names cannot be had any more."""

    exit_code = 14
