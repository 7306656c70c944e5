"""How much memory this process may take without harm to others."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


def available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that may be taken: the kernel's estimate, within the control groups' limits.

    Source: proc(5), `MemAvailable`; the kernel's Documentation/admin-guide/cgroup-v2.rst.

    Args:
        proc: The `proc` file system.
        cgroups: The control groups of version 2.
    """
    found = _AVAILABLE.search((proc / "meminfo").read_text())
    free = int(found[1]) << 10 if found else 0
    for group in _groups(proc, cgroups):
        with contextlib.suppress(OSError, ValueError):
            # "max" where there is no limit.
            limit = int((group / "memory.max").read_text())
            free = min(free, limit - int((group / "memory.current").read_text()))
    return max(0, free)


def _groups(proc: Path, cgroups: Path) -> list[Path]:
    """Return the directories of this process's control group and of those that it is in."""
    with contextlib.suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                own = cgroups / line.removeprefix("0::/")
                return [own, *(parent for parent in own.parents if parent.is_relative_to(cgroups))]
    return []
