"""Running mmdebstrap: progress from what it prints, and what its failures mean."""

from __future__ import annotations

import collections
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from bouvet import process
from bouvet.errors import LayerError


@dataclass(frozen=True, slots=True)
class _Cause:
    pattern: str
    message: str
    hint: str


# The first that matches any line of the output is the cause: apt goes on after some errors, and later
# ones are often consequences.
_FULL = r"No space left on device|not enough free space"
_CAUSES = (
    _Cause(
        _FULL,
        "the disk is full",
        "free some space: the build needs about 2.5 times the installed size of the packages",
    ),
    _Cause(
        r"E: Unable to locate package (\S+)",
        "there is no package '{}'",
        "check its name; packages come from the suite's section 'main', with updates and security",
    ),
    _Cause(
        r"E: Package '([^']+)' has no installation candidate",
        "the package '{}' cannot be installed",
        "it is virtual or obsolete: name the package that took its place",
    ),
    _Cause(
        r"NO_PUBKEY|The following signatures|is not signed",
        "the mirror's signature cannot be verified",
        "apt-get install debian-archive-keyring, and check the spec's mirror",
    ),
    _Cause(
        r"does not have a Release file|did not find any indices",
        "the mirror does not have this suite or architecture",
        "check the spec's suite and mirror",
    ),
    _Cause(
        r"(?:Failed to fetch \w+://(?:[^/\s]*@)?|Could not resolve '|(?:Could not|Unable to) connect to )"
        r"([^/\s']+)",
        "the server {} cannot be read",
        "check the network, the proxy variables and the spec's mirror or server",
    ),
    _Cause(
        r"Could not resolve|Could not connect|Unable to connect|Failed to fetch",
        "the mirror cannot be read",
        "check the network, the proxy variables and the spec's mirror",
    ),
)


def find_cause(lines: Iterable[str]) -> tuple[str, str] | None:
    """Return what lines of apt or dpkg say went wrong, and what to do about it; None if that is unknown."""
    printed = list(lines)
    for cause in _CAUSES:
        if found := next(filter(None, (re.search(cause.pattern, line) for line in printed)), None):
            return cause.message.format(*found.groups()), cause.hint
    return None


def is_full(lines: Iterable[str]) -> bool:
    """Return whether lines of apt or dpkg say that there was no space left for the tree."""
    return any(re.search(_FULL, line) for line in lines)


def failure(argv: Sequence[str], status: int, lines: Iterable[str]) -> LayerError:
    """Return the error for an mmdebstrap that ended with `status` after printing `lines`."""
    printed = list(lines)
    message, hint = find_cause(printed) or (f"mmdebstrap ended with status {status}", None)
    return LayerError(
        f"Debian's packages were not installed: {message}",
        hint=hint,
        details=(f"command: {process.pasteable(argv)}", *printed[-process.TAIL_LINES :]),
    )


class Log(threading.Thread):
    """Reads standard error in a thread of its own, so that no pipe fills up while the tar is read.

    Args:
        stream: The program's standard error.
        progress: Called with a message and a fraction between 0 and 1, None where it is not known.
        output: Called with each line.

    Attributes:
        tail: The last lines.
    """

    def __init__(
        self,
        stream: IO[bytes],
        progress: Callable[[str, float | None], None],
        output: Callable[[str], None],
    ) -> None:
        super().__init__(name="mmdebstrap-log", daemon=True)
        self.tail: collections.deque[str] = collections.deque(maxlen=1000)
        self._stream = stream
        self._progress = Progress(progress)
        self._output = output
        self.start()

    def run(self) -> None:
        """Read to the end."""
        for raw in self._stream:
            line = raw.decode(errors="replace").rstrip("\r\n")
            self.tail.append(line)
            self._output(line)
            self._progress.take(line)


class Progress:
    """Turns apt's and dpkg's lines into messages and a fraction.

    Downloads are a fifth of the work; how many packages there are is known after them. Unpacking and
    setting up are the remainder.

    Args:
        report: Called with a message and a fraction between 0 and 1, None where it is not known.
    """

    _DOWNLOADS = 0.2
    _READING = 0.95

    def __init__(self, report: Callable[[str, float | None], None]) -> None:
        self._report = report
        self._expected = 0
        self._installed = 0

    def take(self, line: str) -> None:
        """Take one line of output."""
        if found := re.match(r"I: (\d+) packages to install", line):
            self._expected = int(found[1])
        elif found := re.match(r"Get:\d+ \S+ \S+ \S+ (\S+) \S+ \S+ \[", line):
            self._report(f"downloading {found[1]}", None)
        elif self._expected and (found := re.match(r"(Unpacking|Setting up) ([^\s:]+)", line)):
            self._installed += 1
            part = min(1.0, self._installed / (2 * self._expected))
            self._report(
                f"{found[1].lower()} {found[2]}", self._DOWNLOADS + (self._READING - self._DOWNLOADS) * part
            )
        elif found := re.match(r"I: running (apt-get update)", line):
            self._report("reading the mirror's package lists", None)
        elif line.startswith("I: reading the tree"):
            self._report("reading the tree", self._READING)
