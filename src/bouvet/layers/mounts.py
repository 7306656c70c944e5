"""The Linux system calls that Python has no names for: mounts, a new root, capabilities.

Every function raises OSError where the kernel refuses, with what it was asked for as its file name.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)

# linux/mount.h
READ_ONLY = 1
NO_SETUID = 2
NO_DEVICES = 4
NO_EXECUTION = 8
_REMOUNT = 32
_BIND = 4096
_RECURSIVE = 16384
_DETACH = 2  # MNT_DETACH

# asm/unistd.h: the C library has no function for this one.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# linux/prctl.h
_PR_CAPBSET_DROP = 24

CAPABILITIES = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6,
    "SETUID": 7, "SETPCAP": 8, "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "AUDIT_WRITE": 29, "SETFCAP": 31,
}  # fmt: skip
"""The capabilities that package scripts need, by their names in linux/capability.h without `CAP_`."""

_LAST_CAPABILITY = 63

# linux/if.h, linux/sockios.h
_INTERFACE_REQUEST = struct.Struct("=16sH22x")  # struct ifreq: the name, the flags
assert _INTERFACE_REQUEST.size == 40
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def mount(kind: str, target: str, *, options: str = "", flags: int = 0) -> None:
    """Mount a new file system of a kind (`tmpfs`, `proc`, `overlay`)."""
    _mount(kind, target, kind, flags, options)


def bind(source: str, target: str, *, flags: int = 0) -> None:
    """Make a file or a directory, with what is mounted below it, appear at another place as well.

    Args:
        source: What shall appear.
        target: Where: a file or a directory like it.
        flags: Restrictions of what appears, `READ_ONLY` and the like.
    """
    _mount(source, target, None, _BIND | _RECURSIVE, None)
    if flags:
        # The mount is another one's copy, whose restrictions a user namespace may not lift.
        status = os.statvfs(target).f_flag & (READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXECUTION)
        _mount(None, target, None, _BIND | _REMOUNT | flags | status, None)


def change_root(directory: str) -> None:
    """Make a mounted directory the root of this mount namespace; the old one lies on it, at `/`.

    It is taken away by `forget_old_root`. The working directory becomes the new root.
    """
    os.chdir(directory)
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(0, f"pivot_root is not known for {platform.machine()}")
    _check(_LIBC.syscall(number, b".", b"."), directory)


def forget_old_root() -> None:
    """Take the old root away, with all mounts in it."""
    _check(_LIBC.umount2(b".", _DETACH), "/")
    os.chdir("/")


def unmount(target: str) -> None:
    """Take a mount away, also while something in it is in use."""
    _check(_LIBC.umount2(os.fsencode(target), _DETACH), target)


def drop_capabilities() -> None:
    """Let no program that is started from now on have more than `CAPABILITIES`."""
    kept = set(CAPABILITIES.values())
    for capability in range(_LAST_CAPABILITY + 1):
        # The kernel may know fewer.
        if capability not in kept and _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break


def start_loopback() -> None:
    """Bring this network namespace's loopback interface up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = _INTERFACE_REQUEST.pack(b"lo", 0)
        _, flags = _INTERFACE_REQUEST.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, _INTERFACE_REQUEST.pack(b"lo", flags | _IFF_UP))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(
        _LIBC.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3]),
        f"{kind or source} at {target}",
    )


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
