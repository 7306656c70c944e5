"""Takes from the calling process what it does not need, for processes that read what a guest writes.

What remains when all steps succeed: the descriptors it holds, Unix sockets within one directory, and
memory. No files, programs, processes, signals to others, network or capabilities. The user stays the
same, because the sockets of that user's other programs must be reachable.

The process must have imported everything it will ever need: afterwards it can open no file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

# linux/sched.h
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

# linux/filter.h, linux/seccomp.h, linux/audit.h
_INSTRUCTION = struct.Struct("=HBBI")
assert _INSTRUCTION.size == 8
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_SET = 0x45
_RETURN = 0x06
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_OFFSET_NUMBER = 0
_OFFSET_ARCHITECTURE = 4
_OFFSET_ARGUMENTS = 16

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# System call numbers on x86_64 and on aarch64, which lacks some. The busiest come first.
_SYSTEM_CALLS: dict[str, tuple[int, int | None]] = {
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "recvfrom": (45, 207), "sendto": (44, 206),
    "recvmsg": (47, 212), "sendmsg": (46, 211), "write": (1, 64), "read": (0, 63), "futex": (202, 98),
    "epoll_ctl": (233, 21), "accept4": (288, 242), "connect": (42, 203), "close": (3, 57),
    "getsockname": (51, 204), "getsockopt": (55, 209), "munmap": (11, 215), "mremap": (25, 216),
    "madvise": (28, 233), "brk": (12, 214), "fstat": (5, 80), "newfstatat": (262, 79), "lseek": (8, 62),
    "unlink": (87, None), "unlinkat": (263, 35), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getrandom": (318, 278),
    "clock_gettime": (228, 113), "sched_yield": (24, 124), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_SOCKET = (41, 198)
_MMAP = (9, 222)
_MPROTECT = (10, 226)
_IOCTL = (16, 29)
_FCNTL = (72, 25)

_AF_UNIX = 1
_PROT_EXEC = 4
_IOCTLS = (0x5421, 0x5451)  # FIONBIO, FIOCLEX
_FCNTLS = (1, 2, 3, 4, 1030)  # get and set flags, F_DUPFD_CLOEXEC


def confine(directory: int, *, descriptors: int, memory: int) -> list[str]:
    """Confine the calling process for good; it must have one thread only.

    What the kernel or an outer container refuses is left out: each step stands for itself.

    Args:
        directory: The descriptor of the only directory that it shall reach. It becomes its working
            directory, and its root where that is allowed; the descriptor is closed.
        descriptors: How many file descriptors it may have open.
        memory: How many bytes of private memory it may have.

    Returns:
        The steps that were refused, with the reason.
    """
    parent = os.getppid()
    os.fchdir(directory)
    os.close(directory)
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("namespaces of its own", _separate),
        ("the directory as its root", lambda: os.chroot(".")),
        ("no groups", lambda: os.setgroups([]) if os.geteuid() == 0 else None),
        ("no capabilities", _drop_capabilities),
        ("limits", lambda: _set_limits(descriptors, memory)),
        # Only now: a change of credentials would clear it.
        ("an end with its parent", lambda: _die_with(parent)),
        ("no new privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        ("a system call filter", _filter_system_calls),
    )
    refused = []
    for name, step in steps:
        try:
            step()
        except OSError as error:
            refused.append(f"{name} ({error.strerror})")
    return refused


def _separate() -> None:
    """Leave the network, with its abstract Unix sockets, and System V's shared memory."""
    flags = _CLONE_NEWNET | _CLONE_NEWIPC
    try:
        _check(_LIBC.unshare(flags))
    except OSError:
        # An ordinary user may in a user namespace, which also allows to change the root.
        _check(_LIBC.unshare(flags | _CLONE_NEWUSER))


def _drop_capabilities() -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        # EINVAL: the kernel knows fewer. EPERM: there are none to drop.
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    nothing = bytes(24)  # effective, permitted, inheritable: low words, then high ones
    _check(_LIBC.capset(header, nothing))


def _set_limits(descriptors: int, memory: int) -> None:
    for limit, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_FSIZE, 1 << 16),
        (resource.RLIMIT_NOFILE, descriptors),
        # Not the address space: the guest's memory is mapped into it, and may be of any size.
        (resource.RLIMIT_DATA, memory),
    ):
        _, hard = resource.getrlimit(limit)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (value, value))


def _die_with(parent: int) -> None:
    """Have SIGTERM sent when the parent ends: unlike SIGKILL, it lets the process clean up."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(0)


def _filter_system_calls() -> None:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"not written for {machine}")
    architecture, column = _ARCHITECTURES[machine]
    program = _filter_program(architecture, column)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    record = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(record, len(record)))


def _filter_program(architecture: int, column: int) -> bytes:
    """Return the filter: what is not listed fails with EPERM, a foreign architecture is killed."""
    program = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
    ]
    for numbers in _SYSTEM_CALLS.values():
        number = numbers[column]
        if number is not None:
            program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program += _allow_argument(_SOCKET[column], 0, (_AF_UNIX,))
    program += _allow_argument(_IOCTL[column], 1, _IOCTLS)
    program += _allow_argument(_FCNTL[column], 1, _FCNTLS)
    for number in (_MMAP[column], _MPROTECT[column]):
        program += [
            (_JUMP_IF_EQUAL, 0, 4, number),
            (_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS + 8 * 2),
            (_JUMP_IF_SET, 1, 0, _PROT_EXEC),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        ]
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _allow_argument(number: int, argument: int, values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the instructions that allow a system call if an argument (its low word) is one of `values`."""
    checks = [(_JUMP_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [
        (_JUMP_IF_EQUAL, 0, len(values) + 3, number),
        (_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS + 8 * argument),
        *checks,
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _prctl(option: int, *arguments: object) -> None:
    _check(_LIBC.prctl(option, *arguments, *[0] * (4 - len(arguments))))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
