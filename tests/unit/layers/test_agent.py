"""The agent's binary: only a static executable of the image's architecture is baked in."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import directory, regular_file
from bouvet.layers import agent
from bouvet.layers.writer import LayerWriter
from bouvet.plan.steps import AgentInputs
from tests.unit.layers.bench import bench

MACHINES = {"x86_64": 62, "aarch64": 183}


def elf(
    *, machine: int = 62, kind: int = 2, types: tuple[int, ...] = (1, 1), identification: bytes = b""
) -> bytes:
    """Return an ELF file of a header and program headers only."""
    start = identification or b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", start, kind, machine, 1, 0, 64, 0, 0, 64, 56, len(types), 0, 0, 0
    )
    return header + b"".join(struct.pack("<IIQQQQQQ", each, 0, 0, 0, 0, 0, 0, 0) for each in types)


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_static_executable_is_accepted(architecture: str) -> None:
    agent.check_static_executable(elf(machine=MACHINES[architecture]), architecture)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a 64-bit"),
        (b"#!/bin/sh\n" + bytes(100), "not a 64-bit"),
        (elf()[:63], "not a 64-bit"),
        (elf(identification=b"\x7fELF\x01\x01\x01" + bytes(9)), "not a 64-bit"),
        (elf(identification=b"\x7fELF\x02\x02\x01" + bytes(9)), "not a 64-bit"),
        (elf(machine=183), "not an executable for x86_64"),
        (elf(kind=3), "not an executable for x86_64"),
        (elf(types=(1, 3)), "dynamically linked"),
        (elf(types=(2,)), "dynamically linked"),
        (elf()[:-1], "not inside the file"),
    ],
)
def test_anything_else_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        agent.check_static_executable(content, "x86_64")


def test_a_real_dynamic_program_is_refused() -> None:
    with pytest.raises(LayerError):
        agent.check_static_executable(Path("/bin/sh").read_bytes(), "x86_64")


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_agent_of_this_installation_is_added(
    architecture: str, tmp_path: Path, layer: LayerWriter
) -> None:
    content = agent.binary(architecture)
    lower = {b"usr": directory(mtime=3), b"usr/local": directory(), b"usr/local/bin": directory()}
    inputs = AgentInputs(architecture, hashlib.sha256(content).hexdigest())
    agent.make(inputs, bench(tmp_path, lower).workshop, layer)
    assert list(layer.tree) == [b"usr/local/bin/bouvet-agent"]
    inode = layer.tree[agent.PATH]
    assert (inode.mode, inode.uid, inode.gid, inode.mtime) == (0o100755, 0, 0, 3)
    assert inode.content() == content


def test_another_binary_than_planned_is_refused(tmp_path: Path, layer: LayerWriter) -> None:
    with pytest.raises(LayerError, match="rebuilt"):
        agent.make(AgentInputs("x86_64", "0" * 64), bench(tmp_path).workshop, layer)


def test_an_installation_without_the_agent_says_how_to_build_it() -> None:
    with pytest.raises(LayerError) as caught:
        agent.binary("riscv64")
    assert caught.value.hint == "make agent"


def test_parents_are_made_where_nothing_is_below(tmp_path: Path, layer: LayerWriter) -> None:
    content = agent.binary("x86_64")
    inputs = AgentInputs("x86_64", hashlib.sha256(content).hexdigest())
    agent.make(inputs, bench(tmp_path, {b"usr": regular_file(b"")}).workshop, layer)
    assert list(layer.tree) == [b"usr/local", b"usr/local/bin", agent.PATH]
