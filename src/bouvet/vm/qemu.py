"""Machines run by QEMU, on any Linux host.

Each machine is a QEMU process and a vsock backend process. A thread of its own starts both, waits for
the first of them to end, and then ends the other and cleans up; the kernel kills both if the thread is
gone. What the guest writes to its disk goes to a file without a name, so that nothing stays behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from bouvet import process
from bouvet.formats.filesystems import READ_ONLY
from bouvet.vm.accelerator import KVM_DEVICE
from bouvet.vm.disks import (
    image_filesystem,
    make_memory_file,
    make_overlay,
    make_upper_disk,
    open_file,
    open_image,
)
from bouvet.vm.initramfs import build_initramfs
from bouvet.vm.machine import DISK_GROWTH, Accelerator, BootTimings, EndReason, MachineConfig, MachineEnd
from bouvet.vm.qemu_command import PROGRAMS, Descriptors, command_line
from bouvet.vm.recorder import Recorder
from bouvet.vm.run_directory import make_run_directory
from bouvet.vm.unprivileged import as_nobody
from bouvet.vm.vsock import VsockBackend, start_vsock_backend

CONSOLE_LOG = "console.log"
QEMU_LOG = "qemu.log"
"""Names of the logs in the run directory."""

_MILESTONE = re.compile(rb"bouvet-init: (.{1,4000}) ([0-9]{1,9}\.[0-9]{1,9})")
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_CANNOT_BOOT = re.compile(r"bouvet-init: cannot boot: (.*?)(?: [0-9.]+)?")
_TAIL = 20
_PANIC_LINES = 200  # registers and a stack follow a panic's first line
_LEAVING_SECONDS = 0.5
"""What QEMU gets to end when its backend has: when QEMU goes, both end within moments."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a running machine consists of."""

    run_directory: Path
    backend: VsockBackend
    qemu: subprocess.Popen[bytes]
    keyboard: socket.socket
    console: Recorder
    complaints: Recorder


class QemuMachine:
    """A machine run by QEMU. See `bouvet.vm.machine.Machine`.

    Args:
        config: What it is made of.
    """

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._started = 0.0
        self._timings = BootTimings()
        self._thread = threading.Thread(target=self._live, name="machine", daemon=True)
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._end: MachineEnd | None = None
        self._failure: BaseException | None = None
        self._parts: _Parts | None = None
        self._stop = threading.Lock()
        self._stop_descriptor: int | None = None

    @property
    def config(self) -> MachineConfig:
        """What it was made of."""
        return self._config

    @property
    def machine_id(self) -> str:
        """The name of its run directory."""
        return self.run_directory.name

    @property
    def run_directory(self) -> Path:
        """The directory of its sockets and logs; it is gone when the machine has ended."""
        return self._running.run_directory

    @property
    def socket_path(self) -> Path:
        """The Unix socket that leads to the guest's vsock ports."""
        return self._running.backend.socket_path

    @property
    def started(self) -> float:
        """When `start` was called, in seconds of `time.monotonic`."""
        return self._started

    @property
    def timings(self) -> BootTimings:
        """What is known of its boot so far."""
        return self._timings

    def start(self) -> None:
        """Start it; the guest's boot goes on behind the caller's back.

        Raises:
            MachineError: The image cannot be opened or does not fit the disk, or the run directory is
                not safe.
            ToolMissing: QEMU is not installed.
        """
        self._started = time.monotonic()
        self._stop_descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def wait(self, timeout: float | None = None) -> MachineEnd | None:
        """Wait until it has ended; return how, or None when `timeout` seconds have passed before."""
        self._ended.wait(timeout)
        return self._end

    def kill(self) -> None:
        """End it at once, and wait until all that it left is removed. Again does nothing."""
        with self._stop:
            if self._stop_descriptor is not None:
                os.eventfd_write(self._stop_descriptor, 1)
        if self._thread.is_alive():
            self._thread.join()

    def console_tail(self, lines: int = _TAIL) -> tuple[str, ...]:
        """Return the console's last lines, without control characters."""
        return self._running.console.tail(lines)

    def mirror_console(self, output: Callable[[bytes], None] | None) -> None:
        """Hand what the console prints to `output` as well, from another thread; None ends that."""
        self._running.console.mirror(output)

    def type_on_console(self, keys: bytes) -> None:
        """Send input to the serial console. It waits while the guest does not read, until the end."""
        with contextlib.suppress(OSError):  # the machine is gone
            self._running.keyboard.sendall(keys)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it."""
        self.kill()

    @property
    def _running(self) -> _Parts:
        assert self._parts is not None, "the machine has not been started"
        return self._parts

    # --- What follows runs in the machine's own thread --------------------------------------------

    def _live(self) -> None:
        end = None
        try:
            with contextlib.ExitStack() as stack:
                self._parts = parts = self._assemble(stack)
                self._ready.set()
                end = self._watch(parts)
        except BaseException as error:  # noqa: BLE001  (it is raised again where the caller is)
            self._failure = error
        with self._stop:
            assert self._stop_descriptor is not None
            os.close(self._stop_descriptor)
            self._stop_descriptor = None
        self._end = end
        self._ready.set()
        self._ended.set()

    def _assemble(self, stack: contextlib.ExitStack) -> _Parts:
        config, kernel = self._config, self._config.kernel
        name, package = PROGRAMS[kernel.architecture]
        program = process.find_tool(name, package=package)
        # First, since it takes longest to come up, and QEMU waits for it.
        run_directory = stack.enter_context(make_run_directory(config.run_base, config.machine_id))
        backend = stack.enter_context(start_vsock_backend(run_directory))
        with contextlib.ExitStack() as inherited:
            image, image_size = open_image(config.image, inherited)
            disk_size = config.disk_size or image_size + DISK_GROWTH
            filesystem = image_filesystem(image)
            overlay = upper = None
            if filesystem in READ_ONLY:
                upper = make_upper_disk(disk_size, config.scratch, inherited)
            else:
                overlay = make_overlay(disk_size, image_size, config.scratch, inherited)
            initramfs = build_initramfs(kernel, config.agent, init=config.init, filesystem=filesystem)
            keyboard, console = socket.socketpair()
            stack.enter_context(keyboard)
            inherited.enter_context(console)
            files = Descriptors(
                kernel=open_file(kernel.image, inherited),
                initramfs=make_memory_file("initramfs", initramfs, inherited),
                image=image,
                overlay=overlay,
                upper=upper,
                modules=open_file(kernel.modules_disk, inherited) if kernel.modules_disk else None,
                console=console.fileno(),
                vsock=backend.qemu_descriptor,
            )
            devices = (KVM_DEVICE,) if config.accelerator is Accelerator.KVM else ()
            argv = [*as_nobody(devices), *command_line(config, program, files)]
            qemu = stack.enter_context(
                process.start(argv, cwd=run_directory, stdout=subprocess.DEVNULL, pass_fds=files.all())
            )
        backend.release_descriptor()
        assert qemu.stderr is not None
        return _Parts(
            run_directory=run_directory,
            backend=backend,
            qemu=qemu,
            keyboard=keyboard,
            console=Recorder(os.dup(keyboard.fileno()), run_directory / CONSOLE_LOG, self._note_milestone),
            complaints=Recorder(os.dup(qemu.stderr.fileno()), run_directory / QEMU_LOG),
        )

    def _note_milestone(self, line: bytes, now: float) -> None:
        found = _MILESTONE.fullmatch(line)
        if found is None:
            return
        what, guest, host = found.group(1), float(found.group(2)), now - self._started
        if what == b"started" and self._timings.init is None:
            self._timings = replace(self._timings, kernel=host - guest, init=host, init_guest=guest)
        elif what.startswith(b"starting ") and self._timings.handover is None:
            self._timings = replace(self._timings, handover=host, handover_guest=guest)

    def _watch(self, parts: _Parts) -> MachineEnd:
        """Wait for the end, and see to it that it is one."""
        poll = select.poll()
        with contextlib.ExitStack() as stack:
            qemu, backend = (os.pidfd_open(child.pid) for child in (parts.qemu, parts.backend.process))
            stack.callback(os.close, qemu)
            stack.callback(os.close, backend)
            for descriptor in (qemu, backend, self._stop_descriptor):
                assert descriptor is not None
                poll.register(descriptor, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll()]
            killed = self._stop_descriptor in ready
            if not killed and qemu not in ready:
                poll.unregister(backend)
                ready = [descriptor for descriptor, _ in poll.poll(_LEAVING_SECONDS * 1000)]
            vsock_died = not killed and qemu not in ready
        parts.qemu.kill()
        status = parts.qemu.wait()
        for recorder in (parts.console, parts.complaints):
            recorder.join()
        if killed:
            return MachineEnd(EndReason.KILLED, "the machine was killed", parts.console.tail(_TAIL))
        return _explain_vsock(parts) if vsock_died else _explain(parts, status)


def _explain_vsock(parts: _Parts) -> MachineEnd:
    status = parts.backend.process.wait()
    details = (*parts.backend.log_lines(), *parts.console.tail(_TAIL))
    message = f"the machine's vsock backend {_ending(status)}"
    return MachineEnd(EndReason.VSOCK_DIED, message, details)


def _explain(parts: _Parts, status: int) -> MachineEnd:
    """Tell why QEMU has ended by itself."""
    console = parts.console.tail(_TAIL)
    if status:
        details = (*parts.complaints.tail(_TAIL), *console)
        return MachineEnd(EndReason.MONITOR_DIED, f"QEMU {_ending(status)}", details)
    lines = parts.console.tail(_PANIC_LINES)
    for place, line in enumerate(lines):
        if found := _PANIC.search(line):
            around = lines[max(0, place - _TAIL // 2) : place + _TAIL // 2]
            return MachineEnd(EndReason.PANICKED, f"the guest's kernel panicked: {found.group(1)}", around)
        if found := _CANNOT_BOOT.fullmatch(line):
            return MachineEnd(EndReason.BOOT_FAILED, f"the image cannot boot: {found.group(1)}", console)
    return MachineEnd(EndReason.POWERED_OFF, "the guest powered off or restarted", console)


def _ending(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
