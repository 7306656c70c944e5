"""Machines that really run: a kernel, a minimal image, and one that is killed at the end of its test."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.formats.ext4 import Ext4Options, plan_filesystem, write_filesystem
from bouvet.formats.tree import FileTree, directory, regular_file
from bouvet.vm.accelerator import choose_accelerator
from bouvet.vm.debian_kernel import DebianKernel
from bouvet.vm.kernel import Kernel, KernelCache
from bouvet.vm.machine import MachineConfig
from bouvet.vm.qemu import QemuMachine
from tests.conftest import USER_CACHE

AGENTS = Path(__file__).parents[2] / "src" / "bouvet" / "binaries"
SECONDS_TO_BOOT = 60.0
"""Far more than a boot takes, for busy hosts."""


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """Debian's kernel, from the user's cache: it is downloaded once."""
    return KernelCache(USER_CACHE / "bouvet" / "kernels").get(DebianKernel("x86_64"))


@pytest.fixture(scope="session")
def guest_program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The program that is all of the minimal image."""
    program = tmp_path_factory.mktemp("guest") / "guest"
    source = Path(__file__).with_name("guest.c")
    subprocess.run(
        ["gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)],
        check=True,
        timeout=60,
    )
    return program.read_bytes()


@pytest.fixture(scope="session")
def image(guest_program: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with the program as its init."""
    tree: FileTree = {name: directory() for name in (b"dev", b"proc", b"sys", b"lib/modules")}
    tree[b"sbin/init"] = regular_file(guest_program, 0o755)
    return write_image(tree, tmp_path_factory.mktemp("image") / "guest.ext4")


def write_image(tree: FileTree, path: Path, *, free: int = 128 << 20) -> Path:
    """Write a tree to an ext4 image."""
    with path.open("xb") as file:
        write_filesystem(plan_filesystem(tree, Ext4Options(free=free)), file.fileno())
    return path


class Console:
    """What a machine's console has printed, to wait for."""

    def __init__(self, machine: QemuMachine) -> None:
        self._machine = machine
        self._text = b""
        self._changed = threading.Condition()
        machine.mirror_console(self._take)

    def _take(self, piece: bytes) -> None:
        with self._changed:
            self._text = (self._text + piece)[-(1 << 20) :]
            self._changed.notify_all()

    def expect(self, text: str, seconds: float = SECONDS_TO_BOOT) -> str:
        """Wait for a text, and return everything so far."""
        with self._changed:
            found = self._changed.wait_for(lambda: text.encode() in self._text, seconds)
            everything = self._text.decode(errors="replace")
        assert found, f"the console does not say {text!r}: {everything} {self._machine.wait(0)}"
        return everything


Boot = Callable[..., tuple[QemuMachine, Console]]


@pytest.fixture
def run_base(tmp_path: Path) -> Path:
    """Where the test's machines have their run directories."""
    return tmp_path / "run"


@pytest.fixture
def configure(kernel: Kernel, image: Path, run_base: Path, tmp_path: Path) -> Callable[..., MachineConfig]:
    """Return the configuration of a machine that runs the minimal image."""
    (tmp_path / "scratch").mkdir()
    return functools.partial(
        MachineConfig,
        image=image,
        kernel=kernel,
        agent=(AGENTS / f"bouvet-agent-{kernel.architecture}").read_bytes(),
        accelerator=choose_accelerator(kernel, USER_CACHE / "bouvet" / "kernels").accelerator,
        run_base=run_base,
        scratch=tmp_path / "scratch",
        memory=256 << 20,
    )


@pytest.fixture
def boot(configure: Callable[..., MachineConfig], run_base: Path, tmp_path: Path) -> Iterator[Boot]:
    """Boot the minimal image with a behaviour; the machine is killed after the test and leaves nothing."""
    with contextlib.ExitStack() as stack:

        def start(behave: str, **options: Any) -> tuple[QemuMachine, Console]:
            config = configure(kernel_arguments=(f"behave={behave}",), **options)
            machine = stack.enter_context(QemuMachine(config))
            return machine, Console(machine)

        yield start
    assert not run_base.exists() or list(run_base.iterdir()) == []
    assert list((tmp_path / "scratch").iterdir()) == []
