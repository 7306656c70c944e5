"""A machine's disks: the image, which is never written to, and a nameless file for what is."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from bouvet.errors import ImageError, MachineError
from bouvet.formats.ext4 import Ext4Options, plan_filesystem, write_filesystem
from bouvet.formats.filesystems import IDENTIFYING, Filesystem, identify_filesystem
from bouvet.formats.qcow2 import SECTOR, empty_overlay
from bouvet.formats.tree import BLOCK, directory


def open_image(path: Path, stack: contextlib.ExitStack) -> tuple[int, int]:
    """Open a disk image for reading; return its descriptor and its size in bytes.

    Raises:
        MachineError: It cannot be read, or is no regular file with something in it.
    """
    descriptor = open_file(path, stack)
    size = os.fstat(descriptor).st_size
    if size < SECTOR:
        raise MachineError(f"{path} is no disk image: it has {size} bytes")
    return descriptor, size


def image_filesystem(image: int) -> Filesystem:
    """Return the file system of an open image. What holds none known is left to the kernel, as an ext4."""
    return identify_filesystem(os.pread(image, IDENTIFYING, 0)) or "ext4"


def open_file(path: Path, stack: contextlib.ExitStack) -> int:
    """Open a regular file for reading; it is closed with the stack.

    Raises:
        MachineError: It cannot be read, or is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise MachineError(f"{path} is not a regular file")
    return descriptor


def make_overlay(size: int, image_size: int, scratch: Path, stack: contextlib.ExitStack) -> int:
    """Make the file for what a guest writes to a disk of `size` bytes; return its descriptor.

    The file has no name: its space is free again when the last process that has it open is gone.

    Raises:
        MachineError: The size is not possible, or the file cannot be made.
    """
    if size < image_size or size % SECTOR:
        raise MachineError(
            f"a disk of {size} bytes is not possible for an image of {image_size} bytes",
            hint=f"at least the image's size, a multiple of {SECTOR}",
        )
    try:
        file = stack.enter_context(tempfile.TemporaryFile(dir=scratch, buffering=0))  # noqa: SIM115
        file.write(empty_overlay(size))
    except OSError as error:
        raise MachineError(
            f"there is no place in {scratch} for what the guest writes: {error.strerror}"
        ) from error
    return file.fileno()


def make_upper_disk(size: int, scratch: Path, stack: contextlib.ExitStack) -> int:
    """Make the disk for what a guest writes over a read-only root; return its descriptor.

    It holds an ext4 with the directories that an overlay needs. Like `make_overlay`'s file it has no name.

    Args:
        size: Its size in bytes; rounded down to whole blocks of 4 KiB.
        scratch: The directory with room for it.
        stack: The file is closed with it.

    Raises:
        MachineError: The size is not possible, or the file cannot be made.
    """
    tree = {b"upper": directory(), b"work": directory()}
    try:
        # It is gone with the machine, so that a journal would serve nobody.
        options = Ext4Options(label="upper", size=size // BLOCK * BLOCK, journal_size=0)
        plan = plan_filesystem(tree, options)
        file = stack.enter_context(tempfile.TemporaryFile(dir=scratch, buffering=0))  # noqa: SIM115
        write_filesystem(plan, file.fileno())
    except ImageError as error:
        raise MachineError(f"a disk of {size} bytes is not possible: {error.message}") from error
    except OSError as error:
        raise MachineError(
            f"there is no place in {scratch} for what the guest writes: {error.strerror}"
        ) from error
    return file.fileno()


def make_memory_file(name: str, content: bytes, stack: contextlib.ExitStack) -> int:
    """Make a file in memory that holds `content`; return its descriptor."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor
