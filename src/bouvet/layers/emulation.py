"""Programs of another architecture, which a package's scripts are: run by QEMU's user-mode emulator.

The kernel starts the emulator for each program whose first bytes a handler of binfmt_misc knows (its
Documentation/admin-guide/binfmt-misc.rst). Root registers handlers for a whole host. Since Linux 6.7 each
user namespace may have its own, so that an ordinary user's build needs nobody's help, and leaves nothing.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from bouvet import process
from bouvet.errors import CommandFailed, LayerError
from bouvet.formats.elf import IDENTIFYING, MACHINES

HANDLERS = Path("/proc/sys/fs/binfmt_misc")
"""Where the kernel tells of its handlers, one file each, once that file system is mounted."""

_MACHINE_NUMBERS = {name: number for number, name in MACHINES.items()}

# Of 64-bit little-endian ELF files: version 1, System V, a program (2); then the machine.
_MAGIC = struct.Struct("<16sHH")
assert _MAGIC.size == IDENTIFYING
_IDENTIFICATION = b"\x7fELF\x02\x01\x01" + bytes(9)
# Any value of the OS's ABI, and position-independent programs (3) as well.
_MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
assert len(_MASK) == _MAGIC.size

# P passes the program's own name on. F keeps the emulator open: it is found from within every root.
_FLAGS = "PF"

_REGISTER = f"""\
mount -t binfmt_misc binfmt_misc {HANDLERS}
printf %s "$0" >{HANDLERS}/register
exec "$@"
"""


def enter_emulation(
    entered: Sequence[str], architecture: str, *, handlers: Path = HANDLERS, user: int | None = None
) -> list[str]:
    """Return the start of a command line in which programs of an architecture run.

    Args:
        entered: The start of a command line that enters namespaces.
        architecture: `x86_64` or `aarch64`.
        handlers: The directory of the host's handlers.
        user: The user id to do it for; by default the current one.

    Raises:
        LayerError: They cannot run here.
        ToolMissing: The emulator is not installed.
    """
    if architecture == platform.machine() or has_handler(architecture, handlers):
        return list(entered)
    emulator = process.find_tool(f"qemu-{architecture}-static", package="qemu-user-static")
    if (os.geteuid() if user is None else user) == 0:
        # Root's handlers are the whole host's: that is not for a build to change.
        raise _cannot_run(architecture)
    argv = [*entered, "/bin/sh", "-euc", _REGISTER, handler_rule(architecture, emulator)]
    try:
        process.run([*argv, "true"], timeout=30)
    except CommandFailed as error:
        raise _cannot_run(architecture, *error.details) from error
    return argv


def has_handler(architecture: str, handlers: Path = HANDLERS) -> bool:
    """Return whether the kernel starts an emulator for programs of an architecture, from within any root."""
    magic = _magic(architecture).hex()
    for path in handlers.glob("*"):
        if path.name in {"register", "status"}:
            continue
        text = path.read_text()
        flags = re.search(r"(?m)^flags: (\w*)$", text)
        if text.startswith("enabled\n") and f"\nmagic {magic}\n" in text and flags and "F" in flags[1]:
            return True
    return False


def handler_rule(architecture: str, emulator: str) -> str:
    """Return what registers an emulator with the kernel."""
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in value) for value in (_magic(architecture), _MASK))
    return f":qemu-{architecture}:M::{magic}:{mask}:{emulator}:{_FLAGS}"


def _magic(architecture: str) -> bytes:
    return _MAGIC.pack(_IDENTIFICATION, 2, _MACHINE_NUMBERS[architecture])


def _cannot_run(architecture: str, *details: str) -> LayerError:
    return LayerError(
        f"programs for {architecture} do not run on this host",
        hint="as root, once: apt-get install qemu-user-static binfmt-support, and "
        f"update-binfmts --enable qemu-{architecture}",
        details=details,
    )
