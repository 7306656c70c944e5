"""Joins a kernel, an image and a machine into a sandbox that answers."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bouvet.errors import AgentError, BouvetError, FormatError, MachineError
from bouvet.events import Listener, Note, StepFinished, StepStarted, ignore
from bouvet.formats.elf import IDENTIFYING, code_architecture
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.filesystems import read_only_filesystem
from bouvet.layers.agent import binary
from bouvet.layers.store import default_root
from bouvet.packing import described_kernel, described_manifest
from bouvet.plan import host_architecture
from bouvet.sandbox import (
    PAUSE_SECONDS,
    AgentClient,
    CallTimeout,
    ConnectionLost,
    NotListening,
    Sandbox,
    connect_client,
)
from bouvet.spec import Architecture
from bouvet.vm.accelerator import choose_accelerator
from bouvet.vm.kernel import Kernel, KernelCache, parse_kernel
from bouvet.vm.machine import MIB, BootTimings, EndReason, MachineConfig
from bouvet.vm.qemu import QemuMachine
from bouvet.vm.terminal import attach_terminal

__all__ = [
    "READY_SECONDS",
    "BootOptions",
    "await_agent",
    "await_system",
    "boot",
    "image_architecture",
    "start_machine",
    "use_console",
]

READY_SECONDS = 120.0
"""How long a guest may take to answer; under emulation on a busy host that can be a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootOptions:
    """How an image is booted.

    Attributes:
        memory: The guest's memory in bytes.
        cpus: Its processors.
        disk: The size in bytes of the disk that it writes to, over a read-only image one of its own; None
            for 2 GiB more than the image.
        network: Whether it has a network card.
        kernel: `debian`, `file:PATH` or `url:URL#sha256=DIGEST`; None for the one that the description
            beside the image names, `debian` without one.
        kernel_arguments: More words for the kernel's command line.
        machine_id: The name of its run directory; None for a random one.
        ready: Seconds within which the agent has to answer.
    """

    memory: int = 512 * MIB
    cpus: int = 1
    disk: int | None = None
    network: bool = False
    kernel: str | None = None
    kernel_arguments: tuple[str, ...] = ()
    machine_id: str | None = None
    ready: float = READY_SECONDS


@contextlib.contextmanager
def boot(image: Path, options: BootOptions, *, listener: Listener = ignore) -> Iterator[Sandbox]:
    """Boot an image and yield it when its agent answers; at the end of the block nothing is left of it.

    Raises:
        MachineError: It could not be started, or its agent did not answer; the details are the
            console's last lines.
        KernelError: The kernel cannot be had.
    """
    with start_machine(image, options, listener=listener) as machine:
        listener(StepStarted("boot", f"machine {machine.machine_id}"))
        client, timings = await_agent(machine, options.ready)
        with client:
            listener(StepFinished("boot", timings.answer or 0.0, _summary(timings)))
            yield Sandbox(machine, client, timings)


def _summary(timings: BootTimings) -> str:
    steps = (
        ("kernel", timings.kernel),
        ("initial file system", timings.init),
        ("image's init", timings.handover),
        ("agent", timings.agent),
    )
    known = ", ".join(f"{name} at {seconds:.2f} s" for name, seconds in steps if seconds is not None)
    return f"the agent answers ({known})"


@contextlib.contextmanager
def start_machine(image: Path, options: BootOptions, *, listener: Listener = ignore) -> Iterator[QemuMachine]:
    """Start a machine that boots an image, and yield it at once; it is gone at the end of the block.

    Raises:
        MachineError: It could not be started.
        KernelError: The kernel cannot be had.
    """
    architecture = image_architecture(image)
    cache = default_root() / "kernels"
    name = options.kernel or described_kernel(image) or "debian"
    source = parse_kernel(name, architecture)
    kernels = KernelCache(cache)
    kernel = kernels.find(source) or _fetch(kernels, name, architecture, listener)
    choice = choose_accelerator(kernel, cache)
    listener(Note(choice.reason))
    config = MachineConfig(
        image=image,
        kernel=kernel,
        agent=binary(architecture),
        accelerator=choice.accelerator,
        memory=options.memory,
        cpus=options.cpus,
        disk_size=options.disk,
        network=options.network,
        kernel_arguments=options.kernel_arguments,
        machine_id=options.machine_id,
    )
    with QemuMachine(config) as machine:
        yield machine


def await_agent(machine: QemuMachine, seconds: float) -> tuple[AgentClient, BootTimings]:
    """Connect to a machine's agent and wait for its first answer.

    Raises:
        MachineError: The machine ended, or the agent did not answer in time.
    """
    deadline = machine.started + seconds
    while True:
        try:
            client = connect_client(machine, deadline=deadline)
            accepted = time.monotonic()
            try:
                client.ping(timeout=max(0.1, deadline - time.monotonic()))
            except BaseException:
                client.close()
                raise
        except ConnectionLost as error:
            # The machine ends, or an agent that crashed: then the guest may start another.
            if machine.wait(PAUSE_SECONDS) is not None or time.monotonic() >= deadline:
                raise _not_ready(machine, error, seconds) from error
        except AgentError as error:
            raise _not_ready(machine, error, seconds) from error
        else:
            break
    answered = time.monotonic()
    timings = dataclasses.replace(
        machine.timings, agent=accepted - machine.started, answer=answered - machine.started
    )
    return client, timings


def await_system(sandbox: Sandbox, seconds: float, *, listener: Listener = ignore) -> str:
    """Wait until a guest's systemd has started everything; return the system's state.

    Raises:
        CallTimeout: It took longer than so many seconds, or the guest's init is not systemd.
        MachineError: The machine has ended.
    """
    started = time.monotonic()
    listener(StepStarted("system", "systemd starts the services"))
    state = sandbox.system_state(timeout=seconds)
    listener(StepFinished("system", time.monotonic() - started, state))
    return state


def use_console(machine: QemuMachine, keyboard: int, screen: int) -> str:
    """Connect a machine's console with a terminal until one of them ends; return which, for the user.

    Args:
        machine: A machine that was started.
        keyboard: The descriptor of what is typed; Control-] leaves.
        screen: The descriptor that the console is shown on.

    Raises:
        MachineError: The machine ended, and not because the guest powered off.
    """
    attach_terminal(machine, keyboard, screen)
    end = machine.wait(0)
    if end is None:
        return "the machine was ended"
    if end.reason is not EndReason.POWERED_OFF:
        raise end.error()
    return end.message


def image_architecture(image: Path) -> Architecture:
    """Return an image's architecture: its dynamic loader's, or else that of its agent or shell.

    It is the host's where an image has none of them. For a squashfs or an erofs, whose files are not read,
    it is that of the description beside the image, and again the host's without one.

    Raises:
        MachineError: It is not there, or no image.
    """
    if read_only_filesystem(image) is not None:
        told = (described_manifest(image) or {}).get("architecture")
        return next((one for one in _LOADERS.values() if one == told), host_architecture())
    try:
        with Ext4Reader(image) as reader:
            for loader, architecture in _LOADERS.items():
                with contextlib.suppress(FileNotFoundError, FormatError):
                    reader.stat(reader.resolve(loader))
                    return architecture
            for program in _STATIC_PROGRAMS:
                with contextlib.suppress(FileNotFoundError, FormatError):
                    for run in reader.stat(reader.resolve(program)).segments[:1]:
                        found = code_architecture(run.source.read(run.source_offset, IDENTIFYING))
                        for architecture in set(_LOADERS.values()):
                            if found == architecture:
                                return architecture
    except OSError as error:
        raise MachineError(f"cannot read the image {image}: {error.strerror}") from error
    except BouvetError as error:
        raise MachineError(f"{image} is no image that can be booted: {error.message}") from error
    return host_architecture()


_LOADERS: dict[bytes, Architecture] = {
    b"lib64/ld-linux-x86-64.so.2": "x86_64",
    b"lib/ld-musl-x86_64.so.1": "x86_64",
    b"lib/ld-linux-aarch64.so.1": "aarch64",
    b"lib/ld-musl-aarch64.so.1": "aarch64",
}
"""Where programs expect the dynamic loader (the psABIs, "Program Interpreter"; musl's `ldso`)."""

_STATIC_PROGRAMS = (b"usr/local/bin/bouvet-agent", b"bin/sh")


def _fetch(kernels: KernelCache, name: str, architecture: str, listener: Listener) -> Kernel:
    started = time.monotonic()
    listener(StepStarted("kernel", "not in the cache"))
    kernel = kernels.get(parse_kernel(name, architecture), listener=listener)
    listener(StepFinished("kernel", time.monotonic() - started, kernel.release))
    return kernel


def _not_ready(machine: QemuMachine, error: AgentError, seconds: float) -> MachineError:
    end = machine.wait(0)
    if end is not None:
        return end.error()
    if isinstance(error, NotListening | ConnectionLost | CallTimeout):
        message = f"the guest's agent did not answer within {seconds:g} s"
    else:
        message = f"the guest's agent does not speak the protocol: {error.message}"
    return MachineError(
        message,
        hint="is bouvet-agent.service enabled in the image? 'bouvet boot IMAGE' shows its console",
        details=machine.console_tail(),
    )
