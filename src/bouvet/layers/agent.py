"""The agent layer: the guest agent's binary, which is part of bouvet."""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import TYPE_CHECKING

from bouvet.errors import FormatError, LayerError
from bouvet.formats.elf import EXECUTABLE, read_elf
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import AgentInputs

PATH = b"usr/local/bin/bouvet-agent"
"""Where the agent is in the guest."""


PROTOCOL = 1
"""The version of the protocol that the agent speaks; its own source has the same number."""


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
    try:
        elf = read_elf(content)
    except FormatError as error:
        raise LayerError(f"the agent cannot be used: {error.message}") from error
    if elf.type != EXECUTABLE or elf.architecture != architecture:
        raise LayerError(
            f"the agent is not an executable for {architecture}",
            details=(f"ELF type {elf.type}, for {elf.architecture}",),
        )
    if not elf.is_static:
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
