"""The agent layer: the guest agent's binary, which is part of bouvet."""

from __future__ import annotations

import hashlib
import importlib.resources
import struct
from typing import TYPE_CHECKING, NamedTuple

from bouvet.errors import LayerError
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import AgentInputs

PATH = b"usr/local/bin/bouvet-agent"
"""Where the agent is in the guest."""


class _ElfHeader(NamedTuple):
    """The ELF header of 64-bit little-endian files (System V ABI, "Object Files")."""

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
_IDENTIFICATION = b"\x7fELF\x02\x01\x01"
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")  # the type comes first
assert _PROGRAM_HEADER.size == 56
_EXECUTABLE = 2
_PT_DYNAMIC, _PT_INTERP = 2, 3
_MACHINES = {"x86_64": 62, "aarch64": 183}


def binary(architecture: str) -> bytes:
    """Return the agent for an architecture.

    Raises:
        LayerError: This installation of bouvet does not carry it.
    """
    file = importlib.resources.files("bouvet") / "binaries" / f"bouvet-agent-{architecture}"
    try:
        return file.read_bytes()
    except OSError as error:
        raise LayerError(f"the agent for {architecture} is not built", hint="make agent") from error


def check_static_executable(content: bytes, architecture: str) -> None:
    """Check that a binary runs on the architecture without any library.

    Raises:
        LayerError: It is no ELF executable, is for another machine, or is dynamically linked.
    """
    if len(content) < _HEADER.size or not content.startswith(_IDENTIFICATION):
        raise LayerError("the agent is not a 64-bit little-endian ELF file")
    header = _ElfHeader._make(_HEADER.unpack_from(content))
    if header.type != _EXECUTABLE or header.machine != _MACHINES[architecture]:
        raise LayerError(
            f"the agent is not an executable for {architecture}",
            details=(f"ELF type {header.type}, machine {header.machine}",),
        )
    table_end = header.program_headers + _PROGRAM_HEADER.size * header.program_header_count
    if header.program_header_size != _PROGRAM_HEADER.size or table_end > len(content):
        raise LayerError("the agent's program headers are not inside the file")
    table = content[header.program_headers : table_end]
    types = {entry[0] for entry in _PROGRAM_HEADER.iter_unpack(table)}
    if types & {_PT_DYNAMIC, _PT_INTERP}:
        raise LayerError("the agent is dynamically linked", hint="build it with CGO_ENABLED=0")


def make(inputs: AgentInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the agent.

    Raises:
        LayerError: It is missing, was rebuilt since the plan was made, or does not fit the image.
    """
    content = binary(inputs.architecture)
    if hashlib.sha256(content).hexdigest() != inputs.digest:
        raise LayerError("the agent was rebuilt while the image was being made", hint="build again")
    check_static_executable(content, inputs.architecture)
    placing = Placing(layer, workshop.lower, mtime=newest_time(workshop.lower))
    placing.file(PATH, content, 0o755)
