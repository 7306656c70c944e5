"""What a virtual machine is to those who use one, whichever monitor runs it."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bouvet.errors import MachineError
from bouvet.vm.kernel import Kernel

MIB = 1 << 20
GIB = 1 << 30
DISK_GROWTH = 2 * GIB
"""How much larger than its image a machine's disk is unless its size is given."""

MAX_CPUS = 64
MAX_MEMORY = 1 << 40
MIN_MEMORY = 64 * MIB
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Accelerator(enum.Enum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


def _scratch() -> Path:
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108  (only files without a name)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What a machine is made of.

    Attributes:
        image: The root disk, an image of ext4, squashfs or erofs; it is only read. Over the last two, which
            are read-only in the guest as well, an overlay is laid, for which there is another disk.
        kernel: What boots.
        agent: The guest agent's program, for the initial file system.
        accelerator: What runs the guest; see `bouvet.vm.accelerator`.
        memory: The guest's memory in bytes, a multiple of 1 MiB, 64 MiB to 1 TiB.
        cpus: Its processors, 1 to 64.
        disk_size: The size in bytes of the disk that the guest writes to, a multiple of 512; that of an
            ext4's own disk is no less than the image. None for 2 GiB more than the image.
        network: Whether it has a network card behind QEMU's user-mode network: the guest can then reach
            what the host can, services on the host's loopback interface included (as 10.0.2.2).
        kernel_arguments: More words for the kernel's command line.
        init: The program of the image that becomes PID 1.
        machine_id: The name of its run directory; None for a random one. 1 to 64 letters, digits, `.`,
            `_` and `-`.
        run_base: Where run directories are.
        scratch: Where what the guest writes to its disk is kept, in a file without a name; it grows up
            to the disk's size, so this should not be memory. By default TMPDIR, or /var/tmp.

    Raises:
        MachineError: A value is not as said here.
    """

    image: Path
    kernel: Kernel
    agent: bytes = field(repr=False)
    accelerator: Accelerator
    memory: int = 512 * MIB
    cpus: int = 1
    disk_size: int | None = None
    network: bool = False
    kernel_arguments: tuple[str, ...] = ()
    init: str = "/sbin/init"
    machine_id: str | None = None
    run_base: Path = Path("/tmp/bouvet")  # noqa: S108  (its owner and mode are checked)
    scratch: Path = field(default_factory=_scratch)

    def __post_init__(self) -> None:
        if not MIN_MEMORY <= self.memory <= MAX_MEMORY or self.memory % MIB:
            raise MachineError(
                f"{self.memory} bytes of memory are not possible",
                hint="64 MiB to 1 TiB, in whole MiB",
            )
        if not 1 <= self.cpus <= MAX_CPUS:
            raise MachineError(f"{self.cpus} processors are not possible", hint=f"1 to {MAX_CPUS}")
        if self.machine_id is not None and not _ID.fullmatch(self.machine_id):
            raise MachineError(f"{self.machine_id!r} cannot be a machine's id")
        if any(not word.isprintable() or " " in word for word in self.kernel_arguments):
            raise MachineError("a kernel argument holds a space or a control character")


class EndReason(enum.Enum):
    """Why a machine has ended."""

    KILLED = "killed"
    """By its owner, through `Machine.kill`."""
    POWERED_OFF = "powered off"
    """The guest powered itself off, or restarted: a machine runs once."""
    PANICKED = "panicked"
    """The guest's kernel gave up."""
    BOOT_FAILED = "boot failed"
    """The initial file system could not start the image's init."""
    MONITOR_DIED = "monitor died"
    """The virtual machine monitor failed, or was killed by somebody else."""
    VSOCK_DIED = "vsock died"
    """The process behind the machine's vsock failed; the machine was killed for it."""


@dataclass(frozen=True, slots=True)
class MachineEnd:
    """How a machine ended.

    Attributes:
        reason: Why.
        message: The same in one sentence.
        details: The last lines of the console and of the programs behind the machine.
    """

    reason: EndReason
    message: str
    details: tuple[str, ...] = ()

    def error(self) -> MachineError:
        """Return this as an error, for those who needed the machine to run."""
        return MachineError(self.message, details=self.details)


@dataclass(frozen=True, slots=True)
class BootTimings:
    """When a boot came how far. None is what has not happened, or was not seen.

    The host's times are seconds since the monitor was started; the guest's are seconds of its own clock,
    which begins with its kernel.

    Attributes:
        kernel: Host: the guest's clock began (told from `init` and `init_guest`).
        init: Host: our init in the initial file system began.
        init_guest: Guest: the same.
        handover: Host: the image's init was started.
        handover_guest: Guest: the same.
        agent: Host: the agent accepted a connection. Set by who connects.
        answer: Host: the agent answered the first request. Set by who asks.
    """

    kernel: float | None = None
    init: float | None = None
    init_guest: float | None = None
    handover: float | None = None
    handover_guest: float | None = None
    agent: float | None = None
    answer: float | None = None


class Machine(Protocol):
    """A virtual machine that boots one image once.

    The thread that starts it has to outlive it: the kernel kills a machine whose thread is gone.
    """

    @property
    def config(self) -> MachineConfig:
        """What it was made of."""
        ...

    @property
    def machine_id(self) -> str:
        """Its name, which is its run directory's too."""
        ...

    @property
    def socket_path(self) -> Path:
        """The Unix socket that leads to the guest's vsock ports, in Firecracker's way.

        The path may be longer than a socket's address can be.
        """
        ...

    @property
    def started(self) -> float:
        """When the monitor was started, in seconds of `time.monotonic`."""
        ...

    @property
    def timings(self) -> BootTimings:
        """What is known of its boot so far."""
        ...

    def start(self) -> None:
        """Start it; the guest's boot goes on behind the caller's back.

        Raises:
            MachineError: The image cannot be opened, or the run directory is not safe.
            ToolMissing: The monitor is not installed.
        """
        ...

    def wait(self, timeout: float | None = None) -> MachineEnd | None:
        """Wait until it has ended; return how, or None when `timeout` seconds have passed before."""
        ...

    def kill(self) -> None:
        """End it at once, and remove all that it left. Doing so again does nothing."""
        ...

    def console_tail(self, lines: int = 20) -> tuple[str, ...]:
        """Return the console's last lines, without control characters."""
        ...

    def mirror_console(self, output: Callable[[bytes], None] | None) -> None:
        """Hand what the console prints to `output` as well, from another thread; None ends that."""
        ...

    def type_on_console(self, keys: bytes) -> None:
        """Send input to the serial console. It waits while the guest does not read, until the end."""
        ...

    def __enter__(self) -> Self:
        """Start it."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill it."""
        ...
