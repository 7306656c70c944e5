"""Files of a guest."""

from __future__ import annotations

import base64
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bouvet.errors import AgentError
from bouvet.protocol import (
    ChangesLost,
    FileEvent,
    FilePiece,
    FileStat,
    Notification,
    decode_file_event,
    decode_file_written,
    decode_nothing,
    decode_piece,
    decode_stat,
    decode_watch,
)
from bouvet.sandbox.archive import extract, write_all, write_tree
from bouvet.sandbox.connection import CALL_SECONDS, Break, CallTimeout, Connection, subject_of
from bouvet.sandbox.streams import STREAM_SECONDS, Download, Upload

WATCH_LIMIT = 4096
"""Changes that wait for their reader at most; of more it is told only that there were more."""

DOWNLOAD_LIMIT = 1 << 40
"""Bytes that a guest may send for one download unless told otherwise: 1 TiB."""

_PIECE = 1 << 20

Result = TypeVar("Result")


class Watch:
    """Changes of files in a guest, as they come. It ends with its connection, or its `with` block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._events: deque[FileEvent] = deque()
        self._changed = threading.Condition()
        self._broken: Break | None = None
        self._identifier: int | str | None = None
        self.discarding = False

    def begin(self, result: object) -> None:
        """Take all that comes for the watch of a result. The connection's reader calls this."""
        self._identifier = decode_watch(result)
        self._connection.subscribe(subject_of("file.changed", self._identifier), self)

    def take(self, notification: Notification) -> None:
        """Queue a change."""
        event = decode_file_event(notification)
        with self._changed:
            if self.discarding:
                return
            if len(self._events) < WATCH_LIMIT:
                self._events.append(event)
            else:
                self._events[-1] = ChangesLost()
            self._changed.notify_all()

    def end(self, broken: Break) -> None:
        """Learn that the connection has ended."""
        with self._changed:
            self._broken = self._broken or broken
            self._changed.notify_all()

    def events(self, *, timeout: float | None = None) -> Iterator[FileEvent]:
        """Yield changes in order, for ever.

        Args:
            timeout: Seconds without any after which to give up; None for never.

        Raises:
            CallTimeout: There was none for so long. It can be tried again.
            CallFailed: The connection has ended.
        """
        while True:
            deadline = None if timeout is None else time.monotonic() + timeout
            with self._changed:
                self._changed.wait_for(
                    lambda: self._events or self._broken,
                    None if deadline is None else max(0.0, deadline - time.monotonic()),
                )
                if not self._events and self._broken is not None:
                    raise self._broken.failure(self._broken.why, sent=True)
                if not self._events:
                    raise CallTimeout(f"nothing has changed for {timeout:g} s", sent=True)
                event = self._events.popleft()
            yield event

    def close(self, *, timeout: float = CALL_SECONDS) -> None:
        """Get no more changes.

        Raises:
            CallFailed: There was no response.
        """
        if self._identifier is not None and self._connection.broken is None:
            identifier, self._identifier = self._identifier, None
            self.discarding = True
            self._connection.call("file.unwatch", {"watch": identifier}, decode_nothing, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Files:
    """The files of a guest. A relative path starts in the home of the agent's user.

    Every method raises `CallFailed` where no response comes, and `RequestRefused` where the guest refuses,
    with the error's name in `errno`.

    Args:
        connection: The connection that is used for all but streams.
        connect: Makes another connection to the same agent, for a stream; None if there is no way to.
    """

    def __init__(self, connection: Connection, connect: Callable[[], socket.socket] | None) -> None:
        self._connection = connection
        self._connect = connect

    def stat(self, path: str, *, follow: bool = True, timeout: float = CALL_SECONDS) -> FileStat:
        """Return what is known of a file, or of what a symbolic link points to if `follow`."""
        return self._call("file.stat", {"path": path, "follow": follow}, decode_stat, timeout)

    def read(
        self, path: str, *, offset: int = 0, length: int | None = None, timeout: float = CALL_SECONDS
    ) -> FilePiece:
        """Return a piece of a file: what was asked for, as far as the end and the agent's limit allow."""
        params = {"path": path, "offset": offset, "encoding": "base64"}
        if length is not None:
            params["length"] = length
        return self._call("file.read", params, decode_piece, timeout)

    def write(
        self,
        path: str,
        data: bytes,
        *,
        offset: int | None = None,
        append: bool = False,
        truncate: bool = False,
        mode: int | None = None,
        timeout: float = CALL_SECONDS,
    ) -> None:
        """Write to a file: all of it at once, unless an offset is given or it is appended to.

        Args:
            path: The file.
            data: At most 10 MiB; a stream has no limit.
            offset: Where to write in the file, in bytes; the rest stays.
            append: Whether to write at its end.
            truncate: Whether the file ends after what is written at an offset.
            mode: A new file's permissions.
            timeout: Seconds to wait for the response.
        """
        params: dict[str, Any] = {"path": path, "data": base64.b64encode(data).decode(), "encoding": "base64"}
        params |= {"offset": offset} if offset is not None else {}
        params |= {"append": True} if append else {}
        params |= {"truncate": True} if truncate else {}
        params |= {"mode": mode} if mode is not None else {}
        written = self._call("file.write", params, decode_file_written, timeout)
        if written != len(data):
            raise AgentError(f"the agent wrote {written} bytes of {len(data)}")

    def mkdir(
        self, path: str, *, parents: bool = False, mode: int | None = None, timeout: float = CALL_SECONDS
    ) -> None:
        """Make a directory, with those above it if `parents`: then it may exist already."""
        params: dict[str, Any] = {"path": path, "parents": parents}
        params |= {"mode": mode} if mode is not None else {}
        self._call("file.mkdir", params, decode_nothing, timeout)

    def remove(self, path: str, *, recursive: bool = False, timeout: float = CALL_SECONDS) -> None:
        """Remove a file or an empty directory; all that is in it too if `recursive`."""
        self._call("file.remove", {"path": path, "recursive": recursive}, decode_nothing, timeout)

    def rename(self, source: str, target: str, *, timeout: float = CALL_SECONDS) -> None:
        """Give a file another name, in place of what has that name."""
        self._call("file.rename", {"from": source, "to": target}, decode_nothing, timeout)

    def chmod(self, path: str, mode: int, *, timeout: float = CALL_SECONDS) -> None:
        """Change a file's permissions, 0 to 0o7777."""
        self._call("file.chmod", {"path": path, "mode": mode}, decode_nothing, timeout)

    def chown(self, path: str, uid: int, gid: int, *, timeout: float = CALL_SECONDS) -> None:
        """Change a file's owner and group."""
        self._call("file.chown", {"path": path, "uid": uid, "gid": gid}, decode_nothing, timeout)

    def symlink(self, target: str, path: str, *, timeout: float = CALL_SECONDS) -> None:
        """Make a symbolic link at `path` that points to `target`."""
        self._call("file.symlink", {"target": target, "path": path}, decode_nothing, timeout)

    def watch(self, path: str, *, recursive: bool = False, timeout: float = CALL_SECONDS) -> Watch:
        """Begin to watch a file or directory, with all that is in it if `recursive`."""
        watch = Watch(self._connection)
        self._connection.call(
            "file.watch",
            {"path": path, "recursive": recursive},
            decode_watch,
            timeout=timeout,
            on_response=watch.begin,
        )
        return watch

    def open_download(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        tree: bool = False,
        timeout: float = STREAM_SECONDS,
    ) -> Download:
        """Begin to stream a file from the guest, or a directory as a tar archive if `tree`.

        Raises:
            AgentError: There is no way to make another connection.
        """
        params: dict[str, Any] = {"path": path}
        params |= {"offset": offset} if offset else {}
        params |= {"length": length} if length is not None else {}
        params |= {"format": "tar"} if tree else {}
        return Download(self._open(), params, timeout=timeout)

    def open_upload(
        self,
        path: str,
        *,
        mode: int | None = None,
        tree: bool = False,
        user: str | int | None = None,
        timeout: float = STREAM_SECONDS,
    ) -> Upload:
        """Begin to stream to a file in the guest, or into a directory from a tar archive if `tree`.

        The file is replaced at the stream's end, as a whole.

        Args:
            path: Where to; a relative one starts in the user's home.
            mode: The file's permissions, 0 to 0o7777; None for those of the one that is replaced, else 0644.
            tree: Whether the stream is an archive.
            user: As whom it is written, by name or number: what is made is that user's, and only what that
                user may do is done. None for root, who gives files the archive's owners.
            timeout: Seconds that the guest may take nothing.

        Raises:
            AgentError: There is no way to make another connection.
        """
        params: dict[str, Any] = {"path": path}
        params |= {"mode": mode} if mode is not None else {}
        params |= {"format": "tar"} if tree else {}
        params |= {"user": user} if user is not None else {}
        return Upload(self._open(), params, timeout=timeout)

    def download(
        self, path: str, target: Path, *, limit: int = DOWNLOAD_LIMIT, timeout: float = STREAM_SECONDS
    ) -> None:
        """Copy a file from the guest. The host's file is replaced at the end, as a whole.

        Args:
            path: The guest's file.
            target: The host's file; new, with the permissions 0644 less the umask.
            limit: Bytes that it may have.
            timeout: Seconds that the guest may send nothing.

        Raises:
            AgentError: It is larger than the limit.
            OSError: It cannot be written here.
        """
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with self.open_download(path, timeout=timeout) as stream:
            descriptor = os.open(temporary, flags, 0o644)
            try:
                for piece in _bounded(stream, limit):
                    write_all(descriptor, piece)
                temporary.replace(target)
            except BaseException:
                temporary.unlink()
                raise
            finally:
                os.close(descriptor)

    def download_tree(
        self, path: str, target: Path, *, limit: int = DOWNLOAD_LIMIT, timeout: float = STREAM_SECONDS
    ) -> None:
        """Copy a directory from the guest, as a new directory; see `bouvet.sandbox.archive.extract`."""
        with self.open_download(path, tree=True, timeout=timeout) as stream:
            extract(iter(stream), target, limit=limit)

    def upload(
        self,
        source: Path,
        path: str,
        *,
        mode: int | None = None,
        user: str | int | None = None,
        timeout: float = STREAM_SECONDS,
    ) -> None:
        """Copy a file to the guest, with its permissions unless `mode` says others; as `user` writes it.

        Raises:
            OSError: It cannot be read.
        """
        with source.open("rb", buffering=0) as file:
            if mode is None:
                mode = os.fstat(file.fileno()).st_mode & 0o777
            with self.open_upload(path, mode=mode, user=user, timeout=timeout) as stream:
                while piece := file.read(_PIECE):
                    stream.write(piece)

    def upload_tree(
        self, source: Path, path: str, *, user: str | int | None = None, timeout: float = STREAM_SECONDS
    ) -> None:
        """Copy a directory's content into a directory of the guest; all files become the user's, or root's.

        Raises:
            OSError: It cannot be read.
        """
        with self.open_upload(path, tree=True, user=user, timeout=timeout) as stream:
            write_tree(source, stream.write)

    def _open(self) -> socket.socket:
        if self._connect is None:
            raise AgentError("a stream needs a connection of its own, and there is no way to make one")
        return self._connect()

    def _call(
        self, method: str, params: dict[str, Any], decode: Callable[[object], Result], timeout: float
    ) -> Result:
        return self._connection.call(method, params, decode, timeout=timeout)


def _bounded(stream: Download, limit: int) -> Iterator[bytes]:
    for piece in stream:
        limit -= len(piece)
        if limit < 0:
            raise AgentError("the guest's file is larger than the limit")
        yield piece
