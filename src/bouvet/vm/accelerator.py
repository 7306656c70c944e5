"""Whether this host's KVM runs guests, found out by running one.

`/dev/kvm` may exist and not be of use: in a nested or restricted virtual machine, opening it succeeds,
and guests stop with an error or hang. So a kernel is booted, without a disk, until it gives up for the
lack of one. The answer is kept until the host's next boot.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import CommandFailed
from bouvet.vm.kernel import Kernel
from bouvet.vm.machine import Accelerator
from bouvet.vm.qemu_command import PROGRAMS, probe_command

PROBE_SECONDS = 5.0
"""A host whose KVM works needs less than one."""

KVM_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CACHE_NAME = "kvm.json"


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs guests here, and why.

    Attributes:
        accelerator: The fastest that works.
        reason: One line for the user.
    """

    accelerator: Accelerator
    reason: str


def choose_accelerator(kernel: Kernel, cache: Path) -> Choice:
    """Return KVM if a guest really runs with it, else emulation.

    Args:
        kernel: The kernel of the guest.
        cache: The directory where the answer is kept; it is made if needed.

    Raises:
        ToolMissing: QEMU is not installed.
    """
    if platform.machine() != kernel.architecture:
        return Choice(Accelerator.TCG, f"emulating {kernel.architecture}: this host is {platform.machine()}")
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        lack = "may not be opened by this user" if KVM_DEVICE.exists() else "is not there"
        return Choice(Accelerator.TCG, f"emulating: {KVM_DEVICE} {lack}")
    name, package = PROGRAMS[kernel.architecture]
    program = process.find_tool(name, package=package)
    answers_for = [_BOOT_ID.read_text().strip(), program, Path(program).stat().st_mtime_ns, os.geteuid()]
    problem = _recall(cache / _CACHE_NAME, answers_for)
    if problem is None:
        problem = _probe(kernel, program)
        _remember(cache / _CACHE_NAME, answers_for, problem)
    if problem:
        return Choice(Accelerator.TCG, f"emulating: KVM does not run guests here ({problem})")
    return Choice(Accelerator.KVM, "running with KVM")


def _probe(kernel: Kernel, program: str) -> str:
    """Return what is wrong with KVM, or an empty string."""
    try:
        done = process.run(probe_command(kernel, program), timeout=PROBE_SECONDS)
    except CommandFailed as error:
        return error.details[-1] if len(error.details) > 1 else error.message
    # Without a root file system a kernel panics, which restarts the machine, which ends QEMU.
    return "" if b"Kernel panic" in done.stdout else "the guest printed nothing"


def _recall(path: Path, answers_for: list[object]) -> str | None:
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("for") != answers_for:
        return None
    problem = stored.get("problem")
    return problem if isinstance(problem, str) else None


def _remember(path: Path, answers_for: list[object], problem: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps({"for": answers_for, "problem": problem}) + "\n")
    fresh.replace(path)
