"""Host programs in memory: the other end of a device's connections, without sockets."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bouvet.formats.virtio.vsock import Connection


class MemoryEndpoint:
    """A host program that takes and gives bytes as far as it is allowed to."""

    def __init__(self, choice: random.Random | None = None) -> None:
        self.choice = choice
        self.connection: Connection | None = None
        self.to_guest = bytearray()
        self.from_guest = bytearray()
        self.room = 1 << 30
        self.ended = False
        self.broken = False
        self.watched = False
        self.accepted: int | None = None
        self.closed = False

    def attach(self, connection: Connection) -> None:
        self.connection = connection

    def accept(self, host_port: int) -> None:
        assert not self.closed
        if self.broken:
            raise BrokenPipeError
        self.accepted = host_port

    def send(self, pieces: Sequence[memoryview]) -> int:
        assert not self.closed
        if self.broken:
            raise BrokenPipeError
        content = b"".join(pieces)
        taken = min(len(content), self.room)
        if self.choice is not None and self.choice.random() < 0.3:
            taken = self.choice.randrange(taken + 1)
        self.room -= taken
        self.from_guest += content[:taken]
        return taken

    def receive_into(self, pieces: Sequence[memoryview]) -> int | None:
        assert not self.closed
        total = 0
        for piece in pieces:
            part = self.to_guest[: len(piece)]
            piece[: len(part)] = part
            del self.to_guest[: len(part)]
            total += len(part)
        if total or self.ended or self.broken:
            return total
        return None

    def watch_writable(self, wanted: bool) -> None:
        assert not self.closed
        self.watched = wanted

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class MemoryHost:
    """A host on which programs listen on all ports but one."""

    CLOSED_PORT = 1

    def __init__(self, choice: random.Random | None = None) -> None:
        self.choice = choice
        self.endpoints: list[MemoryEndpoint] = []

    def connect(self, port: int) -> MemoryEndpoint | None:
        if port == self.CLOSED_PORT:
            return None
        endpoint = MemoryEndpoint(self.choice)
        self.endpoints.append(endpoint)
        return endpoint
