"""The choice between KVM and emulation, with programs in QEMU's place whose behaviour is known."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest

from bouvet.vm import accelerator
from bouvet.vm.accelerator import choose_accelerator
from bouvet.vm.kernel import Kernel
from bouvet.vm.machine import Accelerator
from bouvet.vm.qemu_command import PROGRAMS


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel("debian", "0" * 64, "bzImage", platform.machine(), "6.1.0", tmp_path / "image", (), None)


class Host:
    """A host whose QEMU does what a script says."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "bin" / PROGRAMS[platform.machine()][0]
        self.program.parent.mkdir()
        self.calls = directory / "calls"
        self.cache = directory / "cache"

    def install(self, script: str) -> None:
        self.program.write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\n{script}\n')
        self.program.chmod(0o755)

    def count(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setenv("PATH", str(host.program.parent), prepend=":")
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "KVM_DEVICE", device)
    return host


PANIC = 'echo "[ 0.2] Kernel panic - not syncing: VFS: Unable to mount root fs"'


def test_kvm_is_chosen_when_a_guest_ran(host: Host, kernel: Kernel) -> None:
    host.install(PANIC)
    choice = choose_accelerator(kernel, host.cache)
    assert choice.accelerator is Accelerator.KVM
    command = host.calls.read_text()
    assert "-accel kvm" in command
    assert f"-kernel {kernel.image}" in command


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'failed to set MSR 0x10a' >&2; kill -ABRT $$", "failed to set MSR 0x10a"),
        ("exit 0", "printed nothing"),
        ("echo 'Could not access KVM' >&2; exit 1", "Could not access KVM"),
        (f"{PANIC}; echo broken >&2; exit 1", "broken"),
    ],
)
def test_emulation_is_chosen_when_none_ran(host: Host, kernel: Kernel, script: str, reason: str) -> None:
    host.install(script)
    choice = choose_accelerator(kernel, host.cache)
    assert choice.accelerator is Accelerator.TCG
    assert reason in choice.reason
    assert "\n" not in choice.reason


def test_a_guest_that_hangs_is_given_up(host: Host, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 0.3)
    host.install("exec sleep 60")
    choice = choose_accelerator(kernel, host.cache)
    assert choice.accelerator is Accelerator.TCG
    assert "longer than" in choice.reason


def test_the_answer_is_kept_until_the_host_or_qemu_changes(
    host: Host, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.install("exit 1")
    first = choose_accelerator(kernel, host.cache)
    assert choose_accelerator(kernel, host.cache) == first
    assert host.count() == 1
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another boot\n")
    monkeypatch.setattr(accelerator, "_BOOT_ID", boot_id)
    choose_accelerator(kernel, host.cache)
    assert host.count() == 2
    host.program.unlink()
    host.install(PANIC)
    assert choose_accelerator(kernel, host.cache).accelerator is Accelerator.KVM


def test_a_damaged_answer_is_asked_for_again(host: Host, kernel: Kernel) -> None:
    host.install(PANIC)
    choose_accelerator(kernel, host.cache)
    (record,) = host.cache.iterdir()
    for content in (b"", b"[]", b'{"for": null, "problem": ""}'):
        record.write_bytes(content)
        assert choose_accelerator(kernel, host.cache).accelerator is Accelerator.KVM
    assert host.count() == 4


def test_a_foreign_architecture_is_emulated(host: Host, kernel: Kernel) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    choice = choose_accelerator(dataclasses.replace(kernel, architecture=other), host.cache)
    assert choice.accelerator is Accelerator.TCG
    assert other in choice.reason
    assert host.count() == 0


def test_a_host_without_kvm_is_not_probed(
    host: Host, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "nothing")
    choice = choose_accelerator(kernel, host.cache)
    assert (choice.accelerator, "is not there" in choice.reason) == (Accelerator.TCG, True)
    assert host.count() == 0
