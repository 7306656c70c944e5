"""A running vsock backend between a driver and host programs that the tests make."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from bouvet.formats.virtio.vsock import BUFFER_SIZE
from bouvet.vm.vsock import VsockBackend, start_vsock_backend
from tests.formats.virtio.driver import PATIENCE, FrontEnd, Guest, Peer

PORT = 52
UNCONFINED = "vsock: running without "


class Machine:
    """A backend, the guest that QEMU has given it, and the host programs that talk to it."""

    def __init__(self, backend: VsockBackend, guest: Guest) -> None:
        self.backend = backend
        self.programs: list[socket.socket] = []
        self.front_end = FrontEnd(backend.qemu_descriptor, guest)
        backend.release_descriptor()

    @property
    def guest(self) -> Guest:
        return self.front_end.guest

    @property
    def run_directory(self) -> Path:
        return self.backend.socket_path.parent

    def boot(self) -> None:
        """Have the driver start, and offer all its receive buffers."""
        self.front_end.initialize()
        self.front_end.start()
        self.guest.fill()

    def dial(self, line: bytes = b"CONNECT 52\n") -> socket.socket:
        """Return a host program's socket that has sent its first line."""
        program = socket.socket(socket.AF_UNIX)
        self.programs.append(program)
        program.settimeout(PATIENCE)
        program.connect(str(self.backend.socket_path))
        program.sendall(line)
        return program

    def connect(self, *, buffer_size: int = BUFFER_SIZE) -> tuple[socket.socket, Peer]:
        """Return both ends of a new connection that a host program has made."""
        program = self.dial()
        peer = self.front_end.accept(buffer_size=buffer_size)
        assert read_line(program) == b"OK %d\n" % peer.host_port
        return program, peer

    def listen(self, port: int, *, backlog: int = 8) -> socket.socket:
        """Return the socket of a host program that waits for the guest's connections to a port."""
        program = socket.socket(socket.AF_UNIX)
        self.programs.append(program)
        program.settimeout(PATIENCE)
        program.bind(str(self.run_directory / f"v.sock_{port}"))
        program.listen(backlog)
        return program

    def complaints(self) -> list[str]:
        """Return why the backend has ended, if by itself: the log without what the host forbids it."""
        return [line for line in self.backend.log_lines() if not line.startswith(UNCONFINED)]

    def resident(self) -> int:
        """Return the backend's private memory in bytes."""
        pages = (self.proc / "statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def processor_seconds(self) -> float:
        """Return how long the backend has computed."""
        fields = (self.proc / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def proc(self) -> Path:
        return Path("/proc") / str(self.backend.process.pid)

    def close(self) -> None:
        for program in self.programs:
            program.close()
        self.front_end.close()
        self.guest.memory.check_canaries()
        self.guest.memory.close()


@contextlib.contextmanager
def new_machine(run_directory: Path, guest: Guest) -> Iterator[Machine]:
    """Start a backend for a guest, and boot it."""
    with start_vsock_backend(run_directory) as backend:
        machine = Machine(backend, guest)
        try:
            machine.boot()
            yield machine
        finally:
            machine.close()


def read_line(program: socket.socket) -> bytes:
    """Return the first line that a host program gets, or what there is of it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = program.recv(1)
        if not byte:
            break
        line += byte
    return line


def read(program: socket.socket, length: int) -> bytes:
    """Return exactly `length` bytes that a host program gets."""
    out = bytearray()
    while len(out) < length:
        piece = program.recv(length - len(out))
        assert piece, "the connection has ended"
        out += piece
    return bytes(out)


def ended(program: socket.socket) -> bool:
    """Return whether a host program's connection ends without a further byte."""
    try:
        return program.recv(1) == b""
    except ConnectionResetError:
        return True


def pattern(length: int) -> bytes:
    """Return bytes of which no two places look alike; `length` is a multiple of 4."""
    return struct.pack(f"<{length // 4}I", *range(length // 4))
