"""What the head of an ELF file says: the machine it is for, and whether it needs a loader.

Source: System V Application Binary Interface, "Object Files" (ELF header, program header).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from bouvet.errors import FormatError

MACHINES = {62: "x86_64", 183: "aarch64"}
"""`e_machine` of the architectures that are known here."""

EXECUTABLE, SHARED = 2, 3
"""`e_type` of a program at a fixed address, and of one at any address (or a library)."""


class ElfHeader(NamedTuple):
    """The ELF header of 64-bit little-endian files."""

    identification: bytes
    type: int
    machine: int
    version: int
    entry: int
    program_headers: int
    section_headers: int
    flags: int
    size: int
    program_header_size: int
    program_header_count: int
    section_header_size: int
    section_header_count: int
    section_names: int


_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
assert _HEADER.size == 64
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")  # the type comes first
assert _PROGRAM_HEADER.size == 56
_IDENTIFICATION = b"\x7fELF\x02\x01\x01"
_KIND_AND_MACHINE = struct.Struct("<16xHH")  # the header's first fields
IDENTIFYING = 20
"""How many bytes of a file tell its architecture."""
assert _KIND_AND_MACHINE.size == IDENTIFYING
_PT_DYNAMIC, _PT_INTERP = 2, 3


@dataclass(frozen=True, slots=True)
class Elf:
    """An ELF file's facts.

    Attributes:
        type: `e_type`: 2 is an executable, 3 a shared object or position-independent executable.
        machine: `e_machine`.
        is_static: Whether it has neither an interpreter nor a dynamic section.
    """

    type: int
    machine: int
    is_static: bool

    @property
    def architecture(self) -> str:
        """The machine's name: `x86_64`, `aarch64`, or `machine N`."""
        return MACHINES.get(self.machine, f"machine {self.machine}")


def code_architecture(head: bytes) -> str | None:
    """Return the architecture that a program or a library is for; None for every other file.

    Relocatable files (objects, kernel modules) are other files: nothing runs them as they are.

    Args:
        head: The file's first bytes, `IDENTIFYING` of them or more.

    Returns:
        `x86_64`, `aarch64`, `machine N`, or `32-bit or big-endian`.
    """
    if len(head) < IDENTIFYING or not head.startswith(_IDENTIFICATION[:4]):
        return None
    if not head.startswith(_IDENTIFICATION):
        return "32-bit or big-endian"
    kind, machine = _KIND_AND_MACHINE.unpack_from(head)
    return MACHINES.get(machine, f"machine {machine}") if kind in {EXECUTABLE, SHARED} else None


def read_elf(content: bytes) -> Elf:
    """Return the facts of an ELF file.

    Args:
        content: The file, or at least its ELF header and program headers.

    Raises:
        FormatError: It is no 64-bit little-endian ELF file, or its program headers are not in it.
    """
    if len(content) < _HEADER.size or not content.startswith(_IDENTIFICATION):
        raise FormatError("it is not a 64-bit little-endian ELF file")
    header = ElfHeader._make(_HEADER.unpack_from(content))
    table_end = header.program_headers + _PROGRAM_HEADER.size * header.program_header_count
    if header.program_header_size != _PROGRAM_HEADER.size or table_end > len(content):
        raise FormatError("its program headers are not inside the file")
    table = content[header.program_headers : table_end]
    types = {entry[0] for entry in _PROGRAM_HEADER.iter_unpack(table)}
    return Elf(header.type, header.machine, is_static=not types & {_PT_DYNAMIC, _PT_INTERP})
