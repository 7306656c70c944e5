r"""The host's side of a virtual machine's vsock: starts the backend process and hands out its two ends.

QEMU has no vsock of its own for hosts without `/dev/vhost-vsock`. Each machine therefore gets a process
(`bouvet.vm.vsock_backend`) that plays the device: QEMU talks to it over an inherited socket, and host
programs over Unix sockets in the machine's run directory, in Firecracker's way:

* a program connects to `v.sock`, writes `CONNECT <port>\n` and reads `OK <host port>\n` once the guest
  has accepted; the connection is closed without an answer when the guest refuses;
* the guest's own connections to CID 2, port P, go to the Unix socket `v.sock_P`, if one is listening.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import MachineError

SOCKET_NAME = "v.sock"
"""The name, in the run directory, of the socket that host programs connect to."""

LOG_NAME = "vsock.log"
"""The name, in the run directory, of the file that the backend writes its few lines to."""

_PACKAGES = Path(__file__).parents[2]  # where this very package can be imported from
_BACKLOG = 512
_LOG_TAIL = 4096


@dataclass(slots=True)
class VsockBackend:
    """A running backend.

    Attributes:
        qemu_descriptor: QEMU's end of the vhost-user socket, inheritable, for `-chardev socket,fd=N`.
        socket_path: The Unix socket for host programs. It exists and listens already. The path may be
            longer than the 107 bytes that a socket address can hold.
        process: The backend.
    """

    qemu_descriptor: int
    socket_path: Path
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Return the backend's exit status, or None while it runs."""
        return self.process.poll()

    def release_descriptor(self) -> None:
        """Close this process's copy of QEMU's end; to be called when QEMU has been started.

        Only then does the backend see QEMU's end go away. Calling it again does nothing.
        """
        if self.qemu_descriptor >= 0:
            os.close(self.qemu_descriptor)
            self.qemu_descriptor = -1

    def log_lines(self) -> tuple[str, ...]:
        """Return the last lines of the backend's log: why it ended, where it ended by itself."""
        try:
            with self.socket_path.with_name(LOG_NAME).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL))
                return tuple(log.read(_LOG_TAIL).decode(errors="replace").splitlines())
        except OSError:
            return ()


@contextlib.contextmanager
def start_vsock_backend(run_directory: Path, guest_cid: int = 3) -> Iterator[VsockBackend]:
    """Start a backend and yield it; at the end of the block the process and its socket are gone.

    Args:
        run_directory: The machine's private directory (mode 0700, owned by the caller).
        guest_cid: The guest's context identifier, 3 to 2**32 - 2.

    Raises:
        MachineError: The directory is not private, or already holds a socket of this name.
        ToolMissing: A program needed to start the process is missing.
    """
    if not 3 <= guest_cid <= 0xFFFFFFFE:
        raise MachineError(f"the guest's CID {guest_cid} is not between 3 and 4294967294")
    with contextlib.ExitStack() as stack:
        directory = _open_private(run_directory)
        stack.callback(os.close, directory)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        _bind(listener, directory, run_directory)
        stack.callback(_unlink, directory)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.enter_context(ours)
        theirs.set_inheritable(True)
        qemu_descriptor = theirs.detach()
        backend: VsockBackend | None = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            log = stack.enter_context(os.fdopen(os.open(LOG_NAME, flags, 0o600, dir_fd=directory), "wb"))
            passed = (ours.fileno(), listener.fileno(), directory)
            # -P: whatever lies in the user's working directory is not to be imported.
            program = [sys.executable, "-P", "-m", "bouvet.vm.vsock_backend"]
            child = stack.enter_context(
                process.start(
                    [*program, str(guest_cid), *map(str, passed)],
                    env=process.clean_environment({"PYTHONPATH": str(_PACKAGES)}),
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=passed,
                )
            )
            backend = VsockBackend(qemu_descriptor, run_directory / SOCKET_NAME, child)
            ours.close()
            listener.close()
            yield backend
        finally:
            if backend is None:
                os.close(qemu_descriptor)
            else:
                backend.release_descriptor()


def _open_private(path: Path) -> int:
    """Open the run directory itself, never a link in its place, and check that it is private."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"the run directory {path} cannot be opened: {error.strerror}") from error
    status = os.fstat(directory)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(directory)
        raise MachineError(
            f"the run directory {path} is not private", hint="it must be owned by you, with mode 0700"
        )
    return directory


def _bind(listener: socket.socket, directory: int, path: Path) -> None:
    try:
        # Through the descriptor: the path may be too long for an address, or be replaced meanwhile.
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        os.chmod(SOCKET_NAME, 0o600, dir_fd=directory)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise MachineError(
            f"the socket {path / SOCKET_NAME} cannot be made: {error.strerror}",
            hint="each virtual machine needs a run directory of its own",
        ) from error


def _unlink(directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME, dir_fd=directory)
