"""The head of ELF files, of made ones and of this machine's own."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.formats.elf import EXECUTABLE, IDENTIFYING, SHARED, code_architecture, read_elf


def elf(machine: int = 62, kind: int = 2, types: tuple[int, ...] = (1,), entry_size: int = 56) -> bytes:
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        kind, machine, 1, 0, 64, 0, 0, 64, entry_size, len(types), 0, 0, 0,
    )  # fmt: skip
    return header + b"".join(struct.pack("<IIQQQQQQ", each, 0, 0, 0, 0, 0, 0, 0) for each in types)


@pytest.mark.parametrize(("machine", "name"), [(62, "x86_64"), (183, "aarch64"), (243, "machine 243")])
def test_the_machine_is_named(machine: int, name: str) -> None:
    assert read_elf(elf(machine)).architecture == name


@pytest.mark.parametrize(
    ("content", "architecture"),
    [
        (elf(62), "x86_64"),
        (elf(183, kind=3), "aarch64"),
        (elf(243)[:IDENTIFYING], "machine 243"),
        (b"\x7fELF\x01\x01\x01" + elf()[7:], "32-bit or big-endian"),
        (b"\x7fELF\x02\x02\x01" + elf()[7:], "32-bit or big-endian"),
        (elf(kind=1), None),
        (elf()[: IDENTIFYING - 1], None),
        (b"#!/bin/sh\n" + bytes(100), None),
        (b"", None),
    ],
)
def test_what_code_is_for(content: bytes, architecture: str | None) -> None:
    assert code_architecture(content) == architecture


@pytest.mark.parametrize(("types", "static"), [((), True), ((1, 1), True), ((1, 2), False), ((3,), False)])
def test_what_needs_a_loader_is_not_static(types: tuple[int, ...], static: bool) -> None:
    assert read_elf(elf(types=types)).is_static is static


@pytest.mark.parametrize(
    "content",
    [
        b"",
        elf()[:63],
        b"#!/bin/sh\n" + bytes(100),
        b"\x7fELF\x01\x01\x01" + elf()[7:],
        b"\x7fELF\x02\x02\x01" + elf()[7:],
        elf()[:-1],
        elf(entry_size=32),
        elf()[:32] + struct.pack("<Q", 1 << 63) + elf()[40:],
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(FormatError):
        read_elf(content)


def test_this_interpreter_is_for_this_machine() -> None:
    found = read_elf(Path(sys.executable).resolve().read_bytes())
    assert found.architecture == platform.machine()
    assert found.type in {EXECUTABLE, SHARED}
    assert not found.is_static
