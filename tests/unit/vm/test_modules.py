"""A kernel's modules: what the boot loads, and the disk for the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.errors import KernelError
from bouvet.formats.ext4 import Ext4Reader
from bouvet.vm.modules import BOOT_MODULES, boot_order, read_modules, write_modules_disk

DEPENDENCIES = """\
kernel/a/ring.ko:
kernel/a/virtio.ko: kernel/a/ring.ko
kernel/b/virtio_blk.ko: kernel/a/virtio.ko kernel/a/ring.ko
kernel/b/virtio-mmio.ko.xz: kernel/a/virtio.ko kernel/a/ring.ko
kernel/c/unused.ko: kernel/a/ring.ko
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    directory = tmp_path / "lib" / "modules" / "6.1.0-test"
    (directory / "kernel" / "c").mkdir(parents=True)
    (directory / "modules.dep").write_text(DEPENDENCIES)
    (directory / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/net/vmw-vsock.ko\n")
    (directory / "kernel" / "c" / "unused.ko").write_bytes(b"\x7fELF" + bytes(5000))
    (directory / "build").symlink_to("/usr/src/linux-headers")
    return directory


def test_dependencies_come_first_and_once(modules: Path) -> None:
    names = [path.name for path in boot_order(modules, ("virtio_mmio", "virtio_blk"))]
    assert names == ["ring.ko", "virtio.ko", "virtio-mmio.ko.xz", "virtio_blk.ko"]


def test_what_is_built_in_is_left_out(modules: Path) -> None:
    assert boot_order(modules, ("ext4", "vmw_vsock")) == []


def test_a_missing_module_is_an_error(modules: Path) -> None:
    with pytest.raises(KernelError, match="vmw_vsock_virtio_transport"):
        boot_order(modules, (*BOOT_MODULES[1:2], "vmw_vsock_virtio_transport"))


def test_modules_are_read_from_the_disk(modules: Path, tmp_path: Path) -> None:
    (modules / "kernel" / "a").mkdir()
    (modules / "kernel" / "a" / "ring.ko").write_bytes(b"ring")
    write_modules_disk(modules, tmp_path / "disk")
    content = (modules / "kernel" / "c" / "unused.ko").read_bytes()
    found = read_modules(tmp_path / "disk", ("ext4", "unused"), "6.1.0-test")
    assert found == [("ring.ko", b"ring"), ("unused.ko", content)]
    with pytest.raises(KernelError, match=r"the kernel 6\.1\.0-test has no module 'overlay'"):
        read_modules(tmp_path / "disk", ("overlay",), "6.1.0-test")


def test_the_disk_holds_all_files_and_no_dangling_link(modules: Path, tmp_path: Path) -> None:
    write_modules_disk(modules, tmp_path / "disk")
    reader = Ext4Reader(tmp_path / "disk")
    tree = reader.tree()
    for path in modules.rglob("*"):
        name = bytes(path.relative_to(modules))
        assert (name in tree) is not path.is_symlink()
        if path.is_file():
            assert tree[name].content() == path.read_bytes()


def test_the_disk_is_the_same_each_time(modules: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_modules_disk(modules, tmp_path / name)
        (modules / "modules.dep").touch()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
