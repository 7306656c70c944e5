"""The connections of a vsock device, and how many there may be.

A connection occupies a place from the moment it is asked for until nothing of it is left: neither the
guest's knowledge of it nor bytes for its host program.
"""

from __future__ import annotations

from collections.abc import Iterator

from bouvet.formats.virtio.vsock import Connection, State

_FIRST_PORT = 1 << 30
_PORTS = 1 << 30


class ConnectionTable:
    """All connections of one guest.

    Args:
        capacity: How many places there are. The guest's own connections take at most half of them, so
            that a guest can never lock host programs out.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_ports: dict[tuple[int, int], Connection] = {}
        self._closing: dict[Connection, None] = {}
        self._draining: set[Connection] = set()
        self._guest_opened = 0
        self._next_port = 0

    def __len__(self) -> int:
        return len(self._by_ports) + len(self._draining)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_ports.values()))

    @property
    def places(self) -> int:
        """How many connections could be added: those that are of no use to anybody give theirs up."""
        return self._capacity - len(self) + len(self._closing)

    @property
    def places_for_guest(self) -> int:
        """How many of them the guest may add."""
        return min(self.places, self._capacity // 2 - self._guest_opened)

    def find(self, host_port: int, guest_port: int) -> Connection | None:
        """Return the connection between two ports."""
        return self._by_ports.get((host_port, guest_port))

    def unused_port(self, guest_port: int) -> int:
        """Return a host port, 2**30 to 2**31 - 1, for a new connection to `guest_port`."""
        while True:
            port = _FIRST_PORT + self._next_port
            self._next_port = (self._next_port + 1) % _PORTS
            if (port, guest_port) not in self._by_ports:
                return port

    def add(self, connection: Connection) -> Connection | None:
        """Add a connection; return the one that must give up its place for it, if any.

        That one's host program is gone already, and the guest has not confirmed it for the longest.
        """
        evicted = next(iter(self._closing)) if len(self) >= self._capacity else None
        self._by_ports[connection.host_port, connection.guest_port] = connection
        self._guest_opened += connection.guest_opened
        return evicted

    def close_endpoint(self, connection: Connection) -> None:
        """The host program is gone: close its end, and wait for the guest's confirmation."""
        connection.state = State.CLOSING
        connection.pending.clear()
        connection.endpoint.close()
        self._closing[connection] = None

    def remove(self, connection: Connection) -> None:
        """The guest no longer knows it: close it as soon as the host program has taken all its bytes."""
        del self._by_ports[connection.host_port, connection.guest_port]
        open_ended = connection.state is not State.CLOSING
        connection.state = State.CLOSED
        connection.owed = None
        if connection.pending:
            self._draining.add(connection)
            return
        self._closing.pop(connection, None)
        if open_ended:
            connection.endpoint.close()
        self._guest_opened -= connection.guest_opened

    def drained(self, connection: Connection) -> None:
        """The host program has taken all bytes, or never will: close the connection if it waited for it."""
        if connection in self._draining:
            self._draining.remove(connection)
            connection.endpoint.close()
            self._guest_opened -= connection.guest_opened
