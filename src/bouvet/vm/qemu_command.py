"""QEMU's command line for a small machine: the smallest set of devices that boots an image."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bouvet.vm.kernel import Kernel
from bouvet.vm.machine import Accelerator, MachineConfig
from bouvet.vm.tsc import host_tsc_khz

PROGRAMS = {
    "x86_64": ("qemu-system-x86_64", "qemu-system-x86"),
    "aarch64": ("qemu-system-aarch64", "qemu-system-arm"),
}
"""QEMU's program for each guest architecture, and Debian's package of it."""

_MACHINES = {
    # Without ACPI the kernel would need its command line to find the devices; without legacy=off, vsock
    # would not be a virtio 1.0 device.
    "x86_64": ("microvm,memory-backend=memory,rtc=on,pcie=off", "virtio-mmio.force-legacy=false"),
    "aarch64": ("virt,memory-backend=memory,gic-version=max", "virtio-mmio.force-legacy=false"),
}
_CONSOLES = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
_NO_KEYBOARD = ("i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd")
"""The kernel looks for a keyboard controller that is not there, for half a second."""
_NO_WAIT_FOR_TTYS0 = "systemd.mask=serial-getty@ttyS0.service"
"""The machine "virt" has no such port, for which the guest's systemd would wait 90 seconds."""
_NO_SELF_TESTS = "cryptomgr.notests"
"""The kernel tests its ciphers at each boot; emulated, that takes a third of a second."""
_NO_TRACE_EVENTS = "initcall_blacklist=tracer_init_tracefs"
"""Debian's kernel makes a file of each trace event: a ninth of its start, 9 MB. Firecracker's have none."""
_SMALL_MEMORY = 128 << 20
_OVERCOMMIT = "sysctl.vm.overcommit_memory=1"
"""The agent, as a Go program, maps 34 MB and touches little of it; that may be more than all that is free."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The open files that QEMU inherits.

    Attributes:
        kernel: The kernel's image.
        initramfs: The initial file system.
        image: The root disk's image, read-only.
        overlay: The qcow2 file for what is written to it, or None where nothing can be.
        modules: The disk of kernel modules, read-only, or None.
        upper: The disk for what is written over a read-only root, or None.
        console: A stream socket: the serial console.
        vsock: A stream socket to the vsock backend.
    """

    kernel: int
    initramfs: int
    image: int
    overlay: int | None
    modules: int | None
    upper: int | None
    console: int
    vsock: int

    def all(self) -> tuple[int, ...]:
        """Return those that there are."""
        every = (
            self.kernel,
            self.initramfs,
            self.image,
            self.overlay,
            self.modules,
            self.upper,
            self.console,
            self.vsock,
        )
        return tuple(descriptor for descriptor in every if descriptor is not None)


def command_line(config: MachineConfig, program: str, files: Descriptors) -> list[str]:
    """Return the command line that runs a machine.

    Args:
        config: The machine.
        program: QEMU's path.
        files: The descriptors that the process inherits, under the same numbers.
    """
    memory = f"{config.memory >> 20}M"
    argv = [
        *base_command(config.kernel.architecture, program, config.accelerator),
        *("-smp", str(config.cpus), "-m", memory),
        # vhost-user maps the guest's memory: without share=on the machine boots and its vsock is dead.
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
        *("-kernel", f"/proc/self/fd/{files.kernel}", "-initrd", f"/proc/self/fd/{files.initramfs}"),
        *("-append", kernel_command_line(config)),
        *("-chardev", f"socket,id=console,fd={files.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=vsock,fd={files.vsock}"),
        *("-device", "vhost-user-vsock-device,chardev=vsock"),
        *_disks(files, config.kernel.architecture),
    ]
    if config.network:
        argv += ["-netdev", "user,id=network", "-device", "virtio-net-device,netdev=network"]
    return argv


def base_command(architecture: str, program: str, accelerator: Accelerator) -> list[str]:
    """Return what every QEMU of ours is started with: a bare machine and QEMU's own sandbox."""
    machine, setting = _MACHINES[architecture]
    return [
        program,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-accel", accelerator.value, "-cpu", _processor(architecture, accelerator)),
        *("-machine", machine, "-global", setting),
    ]


def probe_command(kernel: Kernel, program: str) -> list[str]:
    """Return the command line that boots a kernel with KVM and without a disk, its console on stdout."""
    return [
        *base_command(kernel.architecture, program, Accelerator.KVM),
        *("-m", "256M", "-object", "memory-backend-memfd,id=memory,size=256M,share=on"),
        *("-kernel", str(kernel.image), "-serial", "stdio"),
        *("-append", f"console={_CONSOLES[kernel.architecture]} quiet reboot=t panic=-1 pci=off"),
    ]


def kernel_command_line(config: MachineConfig) -> str:
    """Return the kernel's command line."""
    architecture = config.kernel.architecture
    words = [f"console={_CONSOLES[architecture]}", "quiet", "reboot=t", "panic=-1"]
    words += [_NO_SELF_TESTS, _NO_TRACE_EVENTS]
    if config.memory < _SMALL_MEMORY:
        words.append(_OVERCOMMIT)
    if config.accelerator is Accelerator.TCG:
        words.append("mitigations=off")  # an emulated processor does not speculate
    if architecture == "x86_64":
        words += ["pci=off", *_NO_KEYBOARD]
        if config.accelerator is Accelerator.TCG and (rate := host_tsc_khz()) is not None:
            # A busy host delays the timer interrupts that the kernel would check the counter against:
            # it would take the counter for broken, and count time by the interrupts that it misses.
            words += [f"tsc_early_khz={rate}", "tsc=reliable"]
    else:
        words.append(_NO_WAIT_FOR_TTYS0)
    return " ".join([*words, *config.kernel_arguments])


def _processor(architecture: str, accelerator: Accelerator) -> str:
    if accelerator is Accelerator.KVM:
        return "host"
    # QEMU 7.2 emulates cmpxchg16b wrongly: newer kernels fault. Without svm the guest loads no KVM.
    # Signing each return address costs an emulated processor more than all else: boots took thrice as long.
    return "max,cx16=off,svm=off" if architecture == "x86_64" else "max,pauth=off,sve=off"


def _disks(files: Descriptors, architecture: str) -> list[str]:
    """Return the options for the disks: the kernel has to find the root disk first.

    What the guest writes is thrown away with it, so its wishes to have it on stable storage are not
    passed on. A full disk is reported to the guest: by default QEMU would stop it, without a word.
    """
    argv = ["-add-fd", f"fd={files.image},set=1"]
    root: dict[str, object] = {"driver": "raw", "read-only": True, "file": _file(1, read_only=True)}
    thrown_away: dict[str, object] = {"discard": "unmap", "cache": {"no-flush": True}}
    if files.overlay is not None:
        argv += ["-add-fd", f"fd={files.overlay},set=2"]
        root = {"driver": "qcow2", **thrown_away, "file": _file(2, read_only=False), "backing": root}
    disks = [("root", root)]
    if files.modules is not None:
        argv += ["-add-fd", f"fd={files.modules},set=3"]
        disks.append(("modules", {"driver": "raw", "read-only": True, "file": _file(3, read_only=True)}))
    if files.upper is not None:
        argv += ["-add-fd", f"fd={files.upper},set=4"]
        disks.append(("upper", {"driver": "raw", **thrown_away, "file": _file(4, read_only=False)}))
    # The machine "virt" has its slots in descending order.
    for name, options in disks if architecture == "x86_64" else reversed(disks):
        argv += ["-blockdev", json.dumps({"node-name": name, **options})]
        argv += ["-device", f"virtio-blk-device,drive={name},werror=report,rerror=report"]
    return argv


def _file(fd_set: int, *, read_only: bool) -> dict[str, object]:
    return {"driver": "file", "filename": f"/dev/fdset/{fd_set}", "read-only": read_only, "discard": "unmap"}
