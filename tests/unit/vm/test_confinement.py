"""A process that has confined itself: what it can still do, and what not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bouvet.vm import confinement

CHILD = """
import ctypes, json, mmap, os, resource, signal, socket, sys
from bouvet.vm.confinement import confine

def attempt(action):
    try:
        action()
    except (OSError, MemoryError, ValueError) as error:
        return type(error).__name__
    return "done"

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + "/inside")
listener.listen()
outside = socket.socket(socket.AF_UNIX)
outside.bind("\\0bouvet-test-%d" % os.getpid())
outside.listen()
abstract = outside.getsockname()
refused = confine(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), descriptors=64, memory=64 << 20)
unix = lambda: socket.socket(socket.AF_UNIX)
print(json.dumps({
    "refused": refused,
    "connect inside": attempt(lambda: unix().connect("inside")),
    "connect to an abstract socket": attempt(lambda: unix().connect(abstract)),
    "remove inside": attempt(lambda: os.unlink("inside")),
    "some memory": attempt(lambda: bytearray(16 << 20)),
    "much memory": attempt(lambda: bytearray(128 << 20)),
    "executable memory": attempt(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)),
    "many descriptors": attempt(lambda: [os.dup(1) for _ in range(100)]),
    "open": attempt(lambda: open("/etc/passwd")),
    "create": attempt(lambda: os.open("new", os.O_CREAT | os.O_WRONLY)),
    "list": attempt(lambda: os.listdir(".")),
    "fork": attempt(os.fork),
    "execute": attempt(lambda: os.execv("/bin/true", ["true"])),
    "signal the parent": attempt(lambda: os.kill(os.getppid(), 0)),
    "internet socket": attempt(lambda: socket.socket(socket.AF_INET)),
    "netlink socket": attempt(lambda: socket.socket(socket.AF_NETLINK)),
    "more descriptors": attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))),
}))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a confined process could do."""
    directory = tmp_path_factory.mktemp("confined")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("action", ["connect inside", "remove inside", "some memory"])
def test_what_it_needs_is_there(outcome: dict[str, str], action: str) -> None:
    assert outcome[action] == "done"


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("much memory", "MemoryError"),
        ("executable memory", "PermissionError"),
        ("many descriptors", "OSError"),
        ("open", "PermissionError"),
        ("create", "PermissionError"),
        ("list", "PermissionError"),
        ("fork", "PermissionError"),
        ("execute", "PermissionError"),
        ("signal the parent", "PermissionError"),
        ("internet socket", "PermissionError"),
        ("netlink socket", "PermissionError"),
        ("more descriptors", "ValueError"),
    ],
)
def test_everything_else_is_refused(outcome: dict[str, str], action: str, error: str) -> None:
    assert outcome[action] == error


def test_abstract_sockets_are_out_of_reach_where_namespaces_are_allowed(outcome: dict[str, str]) -> None:
    separated = not any("namespaces" in step for step in outcome["refused"])
    assert outcome["connect to an abstract socket"] == ("ConnectionRefusedError" if separated else "done")


# The filter of both architectures, run by an interpreter of its five instructions.

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000


def decide(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Return what a filter says to a system call."""
    instructions = list(confinement._INSTRUCTION.iter_unpack(program))
    words = {0: number, 4: architecture} | {16 + 8 * place: value for place, value in enumerate(arguments)}
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == confinement._LOAD_WORD:
            loaded = words[value]
        elif code == confinement._JUMP_IF_EQUAL:
            at += if_true if loaded == value else if_false
        elif code == confinement._JUMP_IF_SET:
            at += if_true if loaded & value else if_false
        else:
            assert code == confinement._RETURN
            return int(value)


# From the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
@pytest.mark.parametrize(
    ("machine", "verdicts"),
    [
        (
            "x86_64",
            {0: ALLOW, 1: ALLOW, 2: REFUSE, 57: REFUSE, 59: REFUSE, 62: REFUSE, 257: REFUSE},
        ),
        (
            "aarch64",
            {63: ALLOW, 64: ALLOW, 56: REFUSE, 220: REFUSE, 221: REFUSE, 129: REFUSE},
        ),
    ],
)
def test_reading_and_writing_but_no_opening_forking_executing_or_killing(
    machine: str, verdicts: dict[int, int]
) -> None:
    architecture, column = confinement._ARCHITECTURES[machine]
    program = confinement._filter_program(architecture, column)
    for number, verdict in verdicts.items():
        assert decide(program, architecture, number) == verdict, number
    assert decide(program, 0x40000003, 1) == KILL
    # x86's third set of numbers.
    assert decide(program, architecture, 0x40000000 | 1) == REFUSE


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_are_looked_at(machine: str) -> None:
    architecture, column = confinement._ARCHITECTURES[machine]
    program = confinement._filter_program(architecture, column)

    def verdict(number: tuple[int, int], *arguments: int) -> int:
        return decide(program, architecture, number[column], arguments)

    assert verdict(confinement._SOCKET, 1) == ALLOW
    assert verdict(confinement._SOCKET, 2) == REFUSE
    assert {call: verdict(confinement._IOCTL, 0, call) for call in (0x5421, 0x5451, 0x5412)} == {
        0x5421: ALLOW,
        0x5451: ALLOW,
        0x5412: REFUSE,  # TIOCSTI
    }
    assert {call: verdict(confinement._FCNTL, 0, call) for call in (4, 1030, 8)} == {
        4: ALLOW,
        1030: ALLOW,
        8: REFUSE,  # F_SETOWN, with which signals could be sent
    }
    for memory in (confinement._MMAP, confinement._MPROTECT):
        assert verdict(memory, 0, 0, 3) == ALLOW
        assert verdict(memory, 0, 0, 4) == REFUSE
        assert verdict(memory, 0, 0, 7) == REFUSE
