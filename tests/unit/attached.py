"""Runs a command with an agent on this host as `bouvet run` does in a machine; a program for tests.

`python -m tests.unit.attached SOCKET [tty] COMMAND`; its exit status is the command's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import cast

from bouvet.running import Streams, run_attached, terminal_size
from bouvet.sandbox import ProcessOptions, Sandbox, connect_client
from bouvet.vm.machine import BootTimings, Machine

SECONDS = 60.0


class Here:
    """What a sandbox needs to know of a machine, for an agent on this host."""

    def __init__(self, socket: Path) -> None:
        self.socket_path = socket

    def wait(self, timeout: float | None = None) -> None:
        """It does not end: its time passes."""
        time.sleep(timeout or 0.0)


def sandbox_here(socket: Path) -> Sandbox:
    """Return a sandbox whose agent runs on this host."""
    machine = cast("Machine", Here(socket))
    return Sandbox(machine, connect_client(machine, deadline=time.monotonic() + SECONDS), BootTimings())


def main() -> None:
    sandbox = sandbox_here(Path(sys.argv[1]))
    terminal = terminal_size(0) if "tty" in sys.argv[2:-1] else None
    options = ProcessOptions(stdin=True, terminal=terminal)
    with sandbox.client:
        ending = run_attached(sandbox, sys.argv[-1], options, Streams(0, 1, 2))
    sys.exit(124 if ending.timed_out else ending.exit_code)


if __name__ == "__main__":
    main()
