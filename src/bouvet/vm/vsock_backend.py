"""The process behind one machine's vsock: `python -m bouvet.vm.vsock_backend CID QEMU LISTENER DIRECTORY`.

The last three are inherited file descriptors: the vhost-user socket to QEMU, the listening `v.sock`, and
the run directory. `bouvet.vm.vsock` starts it and says what it does for host programs.

All sockets are watched edge-triggered: an arrival is noted once, and bytes are read when the guest has
room for them. A connection that waits for the guest costs nothing, and there is no mask to re-arm.
"""

from __future__ import annotations

import functools
import re
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bouvet.errors import BouvetError, MachineError
from bouvet.formats.virtio.vsock import BUFFER_SIZE, Connection
from bouvet.formats.virtio.vsock_device import CAPACITY, VsockDevice
from bouvet.vm.confinement import confine
from bouvet.vm.vhost_session import SessionEnded, VhostSession

_DIAL_LINE = re.compile(rb"CONNECT ([0-9]{1,10})\r?", re.IGNORECASE)
_MAX_DIAL = 32  # bytes of `CONNECT <port>\n`, as in Firecracker
_MAX_PORT = 0xFFFFFFFE
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_GONE = select.EPOLLHUP | select.EPOLLERR
_EDGE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET

_OTHER_DESCRIPTORS = 64
_MEMORY = CAPACITY * BUFFER_SIZE + (96 << 20)

Handler = Callable[[int], None]


class SocketEndpoint:
    """A host program's Unix socket as a vsock connection's host end."""

    def __init__(self, host_socket: socket.socket, backend: Backend) -> None:
        self._socket = host_socket
        self._backend = backend

    def attach(self, connection: Connection) -> None:
        """Have the socket's events passed on to the connection."""
        self._backend.watch_connection(self._socket, connection)

    def accept(self, host_port: int) -> None:
        """Answer the program's `CONNECT`."""
        self._socket.send(b"OK %d\n" % host_port)

    def send(self, pieces: Sequence[memoryview]) -> int:
        """Write as much as the program's socket takes."""
        try:
            if len(pieces) == 1:
                return self._socket.send(pieces[0])
            return self._socket.sendmsg(pieces)
        except BlockingIOError:
            return 0

    def receive_into(self, pieces: Sequence[memoryview]) -> int | None:
        """Read what the program has written; an error is an end like any other."""
        try:
            if len(pieces) == 1:
                return self._socket.recv_into(pieces[0])
            return self._socket.recvmsg_into(pieces)[0]
        except BlockingIOError:
            return None
        except OSError:
            return 0

    def watch_writable(self, wanted: bool) -> None:
        """Have room in the socket reported, or not: it would be after every read of the program."""
        self._backend.watch_writable(self._socket, wanted)

    def close(self) -> None:
        """Close the socket."""
        self._backend.close_socket(self._socket)


class Backend:
    """The event loop of one machine's vsock.

    Args:
        guest_cid: The guest's context identifier.
        front_end: The vhost-user socket to QEMU.
        listener: The listening socket of host programs.
        capacity: The most connections at once.
    """

    def __init__(
        self, guest_cid: int, front_end: socket.socket, listener: socket.socket, capacity: int = CAPACITY
    ) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._listener = listener
        self._callers_wait = True
        self._dialling: set[socket.socket] = set()
        self._device = VsockDevice(guest_cid, self, capacity)
        self._session = VhostSession(front_end, self._device, guest_cid, self._watch_kick, self._unwatch)
        listener.setblocking(False)
        self._handlers[front_end.fileno()] = lambda _: self._session.on_readable()
        self._epoll.register(front_end, select.EPOLLIN)
        self._handlers[listener.fileno()] = self._on_caller
        self._epoll.register(listener, select.EPOLLIN | select.EPOLLET)

    def run(self) -> NoReturn:
        """Serve until QEMU closes its end.

        Raises:
            SessionEnded: It has.
            FormatError: The guest, or QEMU, broke the rules.
        """
        device, poll, handlers = self._device, self._epoll.poll, self._handlers
        while True:
            for descriptor, events in poll(0 if device.busy else -1):
                # An earlier event of this round may have closed it.
                handler = handlers.get(descriptor)
                if handler is not None:
                    handler(events)
            device.process()
            if self._callers_wait:
                self._take_callers()

    def close(self) -> None:
        """Close everything; the device is not used any more."""
        self._session.close()
        self._epoll.close()

    def connect(self, port: int) -> SocketEndpoint | None:
        """Connect the guest to the program that listens on `v.sock_<port>` in the run directory."""
        try:
            host_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        try:
            host_socket.connect(f"v.sock_{port}")
            self._epoll.register(host_socket, _EDGE)
        except OSError:
            host_socket.close()
            return None
        return SocketEndpoint(host_socket, self)

    def watch_connection(self, host_socket: socket.socket, connection: Connection) -> None:
        """Pass a socket's events on to its connection."""
        self._handlers[host_socket.fileno()] = functools.partial(self._on_connection, connection)

    def watch_writable(self, host_socket: socket.socket, wanted: bool) -> None:
        """Report room in a socket, or no longer."""
        self._epoll.modify(host_socket, _EDGE | select.EPOLLOUT if wanted else _EDGE)

    def close_socket(self, host_socket: socket.socket) -> None:
        """Close a host program's socket."""
        self._handlers.pop(host_socket.fileno(), None)
        host_socket.close()

    def _watch_kick(self, descriptor: int) -> None:
        # The counter is never read: each write to it is an edge. What it is for, `process` sees itself.
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._handlers[descriptor] = lambda _: None

    def _unwatch(self, descriptor: int) -> None:
        del self._handlers[descriptor]
        self._epoll.unregister(descriptor)

    def _on_caller(self, events: int) -> None:
        del events
        self._callers_wait = True

    def _take_callers(self) -> None:
        """Accept host programs as long as there are places for their connections."""
        while len(self._dialling) < self._device.places:
            try:
                caller, _ = self._listener.accept()
            except BlockingIOError:
                self._callers_wait = False
                return
            except OSError:
                # The host is short of something. The caller stays where it is until the next event.
                return
            caller.setblocking(False)
            self._dialling.add(caller)
            self._handlers[caller.fileno()] = functools.partial(self._on_dial, caller)
            self._epoll.register(caller, _EDGE)

    def _on_dial(self, caller: socket.socket, events: int) -> None:
        """Read a host program's first line, and nothing behind it."""
        try:
            head = caller.recv(_MAX_DIAL, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        line, newline, _ = head.partition(b"\n")
        if not newline and head and len(head) < _MAX_DIAL and not events & _ENDED:
            return
        self._dialling.remove(caller)
        match = _DIAL_LINE.fullmatch(line) if newline else None
        port = int(match[1]) if match else _MAX_PORT + 1
        if port > _MAX_PORT or not self._device.running or self._device.places < 1:
            self.close_socket(caller)
            return
        caller.recv(len(line) + len(newline))
        connection = self._device.open(SocketEndpoint(caller, self), port)
        # What is behind the line arrived with it.
        self._device.on_readable(connection, ended=bool(events & _ENDED), gone=bool(events & _GONE))

    def _on_connection(self, connection: Connection, events: int) -> None:
        if events & (select.EPOLLOUT | _GONE):
            self._device.on_writable(connection)
        if events & (select.EPOLLIN | _ENDED):
            self._device.on_readable(connection, ended=bool(events & _ENDED), gone=bool(events & _GONE))


def _log(text: str) -> None:
    sys.stderr.write(f"vsock: {text}\n")
    sys.stderr.flush()


def _on_terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(0)


def main(arguments: Sequence[str]) -> int:
    """Serve one machine until QEMU goes away; return the exit status."""
    guest_cid, front_end, listener, directory = map(int, arguments)
    signal.signal(signal.SIGTERM, _on_terminate)
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    capacity = min(CAPACITY, hard_limit - _OTHER_DESCRIPTORS)
    sockets = (socket.socket(fileno=front_end), socket.socket(fileno=listener))
    backend = Backend(guest_cid, *sockets, capacity)
    refused = confine(directory, descriptors=capacity + _OTHER_DESCRIPTORS, memory=_MEMORY)
    if refused:
        _log("running without " + ", ".join(refused))
    try:
        backend.run()
    except SessionEnded:
        return 0
    except BouvetError as error:
        _log(error.message)
        return error.exit_code
    except (OSError, MemoryError) as error:
        _log(str(error) or "out of memory")
        return MachineError.exit_code
    finally:
        backend.close()
        Path("v.sock").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
