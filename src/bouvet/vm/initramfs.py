"""The initial file system: our agent as `/init`, the modules that it loads, and what to do then.

    /init               the agent, which boots the machine when it finds the next
    /bouvet/init.json   the modules in their order, the disks and the root's type, the init to start
    /modules/*.ko       the modules

It is not compressed: it is small, and unpacking costs an emulated processor more than copying.
"""

from __future__ import annotations

import json
import stat

from bouvet.errors import MachineError
from bouvet.formats.cpio import CpioEntry, write_archive
from bouvet.formats.filesystems import READ_ONLY, Filesystem
from bouvet.vm.kernel import Kernel
from bouvet.vm.modules import read_modules

ROOT_DEVICE = "/dev/vda"
_NEXT_DEVICES = ("/dev/vdb", "/dev/vdc")
"""The disk of modules, if there is one, and the one for what is written over a read-only root."""

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def build_initramfs(
    kernel: Kernel, agent: bytes, *, init: str = "/sbin/init", filesystem: Filesystem = "ext4"
) -> bytes:
    """Return the initial file system for a kernel. Equal inputs give equal bytes.

    Args:
        kernel: The kernel that boots with it.
        agent: The guest agent's static program.
        init: The program of the image that becomes PID 1.
        filesystem: The image's. Over one that is read-only an overlay is laid, written to a disk of its own.

    Raises:
        KernelError: The kernel has no module for it.
        MachineError: The agent is not a program for the kernel's architecture.
    """
    machine = int.from_bytes(agent[18:20], "little")
    if agent[:4] != b"\x7fELF" or machine != _ELF_MACHINES[kernel.architecture]:
        raise MachineError(f"the agent is not a program for {kernel.architecture}")
    modules = [(path.name, path.read_bytes()) for path in kernel.boot_modules]
    devices = list(_NEXT_DEVICES)
    modules_device = devices.pop(0) if kernel.modules_disk is not None else ""
    if filesystem in READ_ONLY and kernel.modules_disk is not None:
        modules += read_modules(kernel.modules_disk, (filesystem, "overlay"), kernel.release)
    config = {
        "modules": [f"/modules/{name}" for name, _ in modules],
        "root": ROOT_DEVICE,
        "root_type": filesystem,
        "upper_disk": devices[0] if filesystem in READ_ONLY else "",
        "modules_disk": modules_device,
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
        CpioEntry(f"modules/{name}".encode(), stat.S_IFREG | 0o644, content) for name, content in modules
    ]
    return write_archive(entries)
