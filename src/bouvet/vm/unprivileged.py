"""Running a program that reads what a guest wrote as nobody, when bouvet runs as root."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from bouvet import process

NOBODY = 65534
"""The user and group ids that own nothing, on Debian and elsewhere."""


def as_nobody(devices: Sequence[Path] = ()) -> list[str]:
    """Return the start of a command line that runs the rest without any privilege; empty if not root.

    It stays empty, too, where nobody does not exist (in a user namespace with few ids), or where only
    root may open one of the devices.

    Args:
        devices: What the program has to open by itself, through a supplementary group if need be.

    Raises:
        ToolMissing: setpriv is not installed.
    """
    if os.geteuid() != 0 or not all(_is_mapped(name) for name in ("uid_map", "gid_map")):
        return []
    groups = []
    for device in devices:
        status = device.stat()
        if stat.S_IMODE(status.st_mode) & 0o006 == 0o006:
            continue
        if stat.S_IMODE(status.st_mode) & 0o060 != 0o060 or status.st_gid == 0:
            return []
        groups.append(str(status.st_gid))
    return [
        process.find_tool("setpriv", package="util-linux"),
        *("--reuid", str(NOBODY), "--regid", str(NOBODY)),
        *(("--groups", ",".join(groups)) if groups else ("--clear-groups",)),
        "--no-new-privs",
        # The kernel forgets this signal when the user changes.
        *("--pdeathsig", "KILL"),
        "--",
    ]


def _is_mapped(name: str) -> bool:
    """Return whether an id map of this process's user namespace has `NOBODY`."""
    ranges = (map(int, line.split()) for line in Path("/proc/self", name).read_text().splitlines())
    return any(first <= NOBODY < first + count for first, _, count in ranges)
