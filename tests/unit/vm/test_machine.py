"""What a machine is made of, and how QEMU and its kernel are told."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from bouvet.errors import MachineError
from bouvet.formats.cpio import read_archive
from bouvet.vm.initramfs import build_initramfs
from bouvet.vm.kernel import Kernel
from bouvet.vm.machine import GIB, MIB, Accelerator, EndReason, Machine, MachineConfig, MachineEnd
from bouvet.vm.modules import write_modules_disk
from bouvet.vm.qemu import QemuMachine
from bouvet.vm.qemu_command import Descriptors, command_line, kernel_command_line
from bouvet.vm.tsc import host_tsc_khz

AGENT = b"\x7fELF" + bytes(14) + b"\x3e\0" + b"the agent"
FILES = Descriptors(
    kernel=10, initramfs=11, image=12, overlay=13, modules=14, upper=None, console=15, vsock=16
)


@pytest.fixture
def config(tmp_path: Path) -> MachineConfig:
    (tmp_path / "virtio.ko").write_bytes(b"module one")
    (tmp_path / "vsock.ko").write_bytes(b"module two")
    kernel = Kernel(
        name="debian",
        digest="0" * 64,
        kind="bzImage",
        architecture="x86_64",
        release="6.1.0",
        image=tmp_path / "image",
        boot_modules=(tmp_path / "virtio.ko", tmp_path / "vsock.ko"),
        modules_disk=tmp_path / "modules.ext4",
    )
    return MachineConfig(
        image=tmp_path / "disk.ext4", kernel=kernel, agent=AGENT, accelerator=Accelerator.TCG
    )


@pytest.mark.parametrize(
    "change",
    [
        {"memory": 63 * MIB},
        {"memory": 512 * MIB + 1},
        {"memory": 2 * 1024 * GIB},
        {"cpus": 0},
        {"cpus": 65},
        {"machine_id": ""},
        {"machine_id": ".."},
        {"machine_id": "a/b"},
        {"machine_id": "a" * 65},
        {"kernel_arguments": ("quiet init=/bin/sh",)},
        {"kernel_arguments": ("a\nb",)},
    ],
)
def test_impossible_machines_are_refused(config: MachineConfig, change: dict[str, object]) -> None:
    with pytest.raises(MachineError):
        dataclasses.replace(config, **change)  # type: ignore[arg-type]


def test_how_a_machine_ended_is_an_error_for_those_who_needed_it() -> None:
    error = MachineEnd(EndReason.PANICKED, "the guest's kernel panicked", ("last line",)).error()
    assert (error.message, error.details) == ("the guest's kernel panicked", ("last line",))


def test_a_machine_that_was_never_started_leaves_nothing(config: MachineConfig) -> None:
    machine: Machine = QemuMachine(config)
    machine.kill()
    assert machine.wait(0) is None
    assert machine.config is config


# The initial file system.


def test_the_initial_file_system_holds_what_the_boot_needs(config: MachineConfig) -> None:
    entries = {entry.name: entry for entry in read_archive(build_initramfs(config.kernel, config.agent))}
    assert entries[b"init"].content == AGENT
    assert entries[b"init"].mode == 0o100755
    assert json.loads(entries[b"bouvet/init.json"].content) == {
        "modules": ["/modules/virtio.ko", "/modules/vsock.ko"],
        "root": "/dev/vda",
        "root_type": "ext4",
        "upper_disk": "",
        "modules_disk": "/dev/vdb",
        "release": "6.1.0",
        "init": "/sbin/init",
    }
    assert entries[b"modules/virtio.ko"].content == b"module one"
    seen: set[bytes] = {b""}
    for name in entries:  # the kernel makes no parents
        assert name.rpartition(b"/")[0] in seen
        seen.add(name)


def test_the_initial_file_system_is_the_same_each_time(config: MachineConfig) -> None:
    assert build_initramfs(config.kernel, config.agent) == build_initramfs(config.kernel, config.agent)


def test_a_kernel_with_all_built_in_needs_no_modules(config: MachineConfig) -> None:
    kernel = dataclasses.replace(config.kernel, boot_modules=(), modules_disk=None)
    archive = read_archive(build_initramfs(kernel, config.agent, init="/bin/other"))
    (settings,) = [json.loads(entry.content) for entry in archive if entry.name == b"bouvet/init.json"]
    assert (settings["modules"], settings["modules_disk"], settings["init"]) == ([], "", "/bin/other")
    archive = read_archive(build_initramfs(kernel, config.agent, filesystem="erofs"))
    (settings,) = [json.loads(entry.content) for entry in archive if entry.name == b"bouvet/init.json"]
    assert (settings["modules"], settings["root_type"], settings["upper_disk"]) == ([], "erofs", "/dev/vdb")


def test_a_read_only_root_needs_its_modules_and_the_overlay(config: MachineConfig, tmp_path: Path) -> None:
    directory = tmp_path / "6.1.0"
    directory.mkdir()
    (directory / "modules.dep").write_text("fs/erofs.ko: lib/crc.ko\nlib/crc.ko:\nfs/overlay.ko:\n")
    (directory / "modules.builtin").write_text("")
    for path in ("fs/erofs.ko", "lib/crc.ko", "fs/overlay.ko"):
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(path)
    write_modules_disk(directory, tmp_path / "modules.ext4")
    archive = read_archive(build_initramfs(config.kernel, config.agent, filesystem="erofs"))
    entries = {entry.name: entry.content for entry in archive}
    settings = json.loads(entries[b"bouvet/init.json"])
    assert settings["modules"][2:] == ["/modules/crc.ko", "/modules/erofs.ko", "/modules/overlay.ko"]
    assert (settings["modules_disk"], settings["upper_disk"]) == ("/dev/vdb", "/dev/vdc")
    assert entries[b"modules/erofs.ko"] == b"fs/erofs.ko"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh", b"\x7fELF" + bytes(14) + b"\xb7\0"])
def test_an_agent_for_another_machine_is_refused(config: MachineConfig, content: bytes) -> None:
    with pytest.raises(MachineError, match="x86_64"):
        build_initramfs(config.kernel, content)


# The command lines.


def options(argv: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(argv) if option == name]


def test_qemu_is_given_what_it_needs_and_no_more(config: MachineConfig) -> None:
    argv = command_line(dataclasses.replace(config, memory=768 * MIB, cpus=2), "/usr/bin/qemu", FILES)
    assert argv[0] == "/usr/bin/qemu"
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert options(argv, "-m") == ["768M"]
    assert options(argv, "-smp") == ["2"]
    assert options(argv, "-object") == ["memory-backend-memfd,id=memory,size=768M,share=on"]
    assert options(argv, "-accel") == ["tcg"]
    assert options(argv, "-cpu") == ["max,cx16=off,svm=off"]
    assert options(argv, "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    ]
    assert options(argv, "-netdev") == []
    assert "virtio-net-device" not in " ".join(argv)
    used = " ".join(argv)
    for descriptor in FILES.all():
        assert f"fd={descriptor}" in used or f"/fd/{descriptor}" in used


def test_only_the_overlay_is_written_to(config: MachineConfig) -> None:
    argv = command_line(config, "qemu", FILES)
    root, modules = (json.loads(value) for value in options(argv, "-blockdev"))
    assert root["driver"] == "qcow2"
    assert root["file"] == {
        "driver": "file",
        "filename": "/dev/fdset/2",
        "read-only": False,
        "discard": "unmap",
    }
    assert root["backing"]["read-only"] is True
    assert root["backing"]["file"]["filename"] == "/dev/fdset/1"
    assert root["backing"]["file"]["read-only"] is True
    assert (modules["read-only"], modules["file"]["read-only"]) == (True, True)
    assert options(argv, "-add-fd") == ["fd=12,set=1", "fd=13,set=2", "fd=14,set=3"]


def test_a_read_only_root_has_another_disk_for_what_is_written(config: MachineConfig) -> None:
    argv = command_line(config, "qemu", dataclasses.replace(FILES, overlay=None, upper=17))
    root, _, upper = (json.loads(value) for value in options(argv, "-blockdev"))
    assert (root["driver"], root["read-only"], root["file"]["filename"]) == ("raw", True, "/dev/fdset/1")
    assert (upper["driver"], upper["file"]["read-only"]) == ("raw", False)
    assert options(argv, "-add-fd") == ["fd=12,set=1", "fd=14,set=3", "fd=17,set=4"]


def test_a_kernel_without_modules_has_one_disk(config: MachineConfig) -> None:
    argv = command_line(config, "qemu", dataclasses.replace(FILES, modules=None))
    assert len(options(argv, "-blockdev")) == 1


def test_the_network_is_there_when_asked_for(config: MachineConfig) -> None:
    argv = command_line(dataclasses.replace(config, network=True), "qemu", FILES)
    assert options(argv, "-netdev") == ["user,id=network"]


def test_kvm_runs_the_hosts_processor(config: MachineConfig) -> None:
    argv = command_line(dataclasses.replace(config, accelerator=Accelerator.KVM), "qemu", FILES)
    assert options(argv, "-cpu") == ["host"]
    assert "tsc" not in options(argv, "-append")[0]


def test_the_other_architecture(config: MachineConfig) -> None:
    kernel = dataclasses.replace(config.kernel, architecture="aarch64", kind="Image")
    config = dataclasses.replace(config, kernel=kernel)
    argv = command_line(config, "qemu", FILES)
    assert options(argv, "-machine")[0].startswith("virt,")
    assert kernel_command_line(config).startswith("console=ttyAMA0 ")
    # A guest's systemd would wait for a port that this machine does not have.
    assert "systemd.mask=serial-getty@ttyS0.service" in kernel_command_line(config).split()
    assert not {"pci=off", "i8042.noaux", "tsc=reliable"} & set(kernel_command_line(config).split())


def test_the_kernels_command_line_takes_more_words(config: MachineConfig) -> None:
    config = dataclasses.replace(config, kernel_arguments=("systemd.unit=rescue.target", "debug"))
    words = kernel_command_line(config).split()
    assert words[0] == "console=ttyS0"
    assert {"reboot=t", "panic=-1"} <= set(words)
    assert words[-2:] == ["systemd.unit=rescue.target", "debug"]


def test_an_emulated_guest_knows_the_rate_of_its_counter(config: MachineConfig) -> None:
    rate = host_tsc_khz()
    words = kernel_command_line(config).split()
    assert (f"tsc_early_khz={rate}" in words) is (rate is not None)


def test_the_rate_of_the_counter_is_measured_well() -> None:
    rate = host_tsc_khz()
    if rate is None:
        pytest.skip("this host has no time stamp counter")
    host_tsc_khz.cache_clear()
    again = host_tsc_khz()
    assert again is not None
    # Far closer in practice; a host that takes the processor away in between may be further off.
    assert abs(again - rate) <= rate / 1000
    assert 100_000 < rate < 10_000_000
