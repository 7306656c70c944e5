"""The initial file system: our agent as `/init`, the modules that it loads, and what to do then.

    /init               the agent, which boots the machine when it finds the next
    /bouvet/init.json   the modules in their order, the root's device and type, the init to start
    /modules/*.ko       the modules

It is not compressed: it is small, and unpacking costs an emulated processor more than copying.
"""

from __future__ import annotations

import json
import stat

from bouvet.errors import MachineError
from bouvet.formats.cpio import CpioEntry, write_archive
from bouvet.vm.kernel import Kernel

ROOT_DEVICE = "/dev/vda"
MODULES_DEVICE = "/dev/vdb"
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def build_initramfs(kernel: Kernel, agent: bytes, *, init: str = "/sbin/init") -> bytes:
    """Return the initial file system for a kernel. Equal inputs give equal bytes.

    Args:
        kernel: The kernel that boots with it.
        agent: The guest agent's static program.
        init: The program of the image that becomes PID 1.

    Raises:
        MachineError: The agent is not a program for the kernel's architecture.
    """
    machine = int.from_bytes(agent[18:20], "little")
    if agent[:4] != b"\x7fELF" or machine != _ELF_MACHINES[kernel.architecture]:
        raise MachineError(f"the agent is not a program for {kernel.architecture}")
    config = {
        "modules": [f"/modules/{path.name}" for path in kernel.boot_modules],
        "root": ROOT_DEVICE,
        "root_type": "ext4",
        "modules_disk": MODULES_DEVICE if kernel.modules_disk is not None else "",
        "release": kernel.release,
        "init": init,
    }
    entries = [
        CpioEntry(b"dev", stat.S_IFDIR | 0o755),
        CpioEntry(b"init", stat.S_IFREG | 0o755, agent),
        CpioEntry(b"bouvet", stat.S_IFDIR | 0o755),
        CpioEntry(b"bouvet/init.json", stat.S_IFREG | 0o644, json.dumps(config, sort_keys=True).encode()),
        CpioEntry(b"modules", stat.S_IFDIR | 0o755),
    ]
    entries += [
        CpioEntry(f"modules/{path.name}".encode(), stat.S_IFREG | 0o644, path.read_bytes())
        for path in kernel.boot_modules
    ]
    return write_archive(entries)
