"""Files of the guest: what is known of them, pieces of them, and changes to them."""

from __future__ import annotations

from dataclasses import dataclass

from bouvet.errors import AgentError
from bouvet.protocol.members import INTEGER_LIMIT, Members
from bouvet.protocol.messages import Notification

PATH_LIMIT = 1 << 16
"""Characters that a path of the guest's may have: far more than Linux's 4,095 bytes."""

READ_LIMIT = 16 << 20
"""Bytes that one `file.read` returns at most."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is known of a file.

    Attributes:
        type: `file`, `directory`, `symlink`, `fifo`, `socket`, `block` or `character`.
        mode: Its permissions, 0 to 0o7777.
        uid: Its owner.
        gid: Its group.
        size: Its size in bytes.
        mtime_ns: When it was changed, in nanoseconds since 1970.
        inode: Its number in its file system.
        links: How many names it has.
        target: What a symbolic link points to; None for other files.
    """

    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    inode: int
    links: int
    target: str | None


@dataclass(frozen=True, slots=True)
class FilePiece:
    """A piece of a file.

    Attributes:
        data: The bytes.
        offset: How many bytes come before them.
        at_end: Whether none come after them.
        size: The file's size in bytes.
    """

    data: bytes
    offset: int
    at_end: bool
    size: int


@dataclass(frozen=True, slots=True)
class FileChange:
    """A change of a file.

    Attributes:
        path: The file.
        event: `created`, `modified`, `removed`, `moved` or `attributes`.
        moved_from: Where it was before; None if it was not moved, or that is not known.
    """

    path: str
    event: str
    moved_from: str | None


@dataclass(frozen=True, slots=True)
class ChangesLost:
    """Changes that nobody will be told of: there were too many."""


FileEvent = FileChange | ChangesLost

_EVENTS = frozenset({"created", "modified", "removed", "moved", "attributes"})
_TYPES = frozenset({"file", "directory", "symlink", "fifo", "socket", "block", "character"})


def decode_stat(result: object) -> FileStat:
    """Read the result of `file.stat`.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "file.stat")
    kind = members.text("type", 32)
    if kind not in _TYPES:
        raise members.wrong("type")
    return FileStat(
        kind,
        members.integer("mode", 0, 0o7777),
        members.integer("uid", 0, 0xFFFFFFFF),
        members.integer("gid", 0, 0xFFFFFFFF),
        members.integer("size"),
        members.integer("mtime_ns", -INTEGER_LIMIT),
        members.integer("inode", 0, (1 << 64) - 1),
        members.integer("links"),
        members.optional_text("target", PATH_LIMIT),
    )


def decode_piece(result: object) -> FilePiece:
    """Read the result of `file.read`, asked for in base64.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "file.read")
    data = members.content("data", READ_LIMIT)
    return FilePiece(data, members.integer("offset"), members.flag("eof"), members.integer("size"))


def decode_file_written(result: object) -> int:
    """Read the result of `file.write`: how many bytes were written.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "file.write").integer("written")


def decode_uploaded(result: object) -> int:
    """Read the result of `file.upload`: how many bytes the guest has taken.

    Raises:
        AgentError: It is something else.
    """
    return Members(result, "file.upload").integer("bytes")


def decode_download(result: object) -> int | None:
    """Read the result of `file.download`: the file's size in bytes, None if it is not known.

    Raises:
        AgentError: It is something else.
    """
    members = Members(result, "file.download")
    return members.integer("size") if "size" in members else None


def decode_watch(result: object) -> int | str:
    """Read the result of `file.watch`: the watch's name.

    Raises:
        AgentError: It is something else.
    """
    match result:
        case {"watch": str(watch)} if len(watch) <= PATH_LIMIT:
            return watch
        case {"watch": int(watch)} if not isinstance(watch, bool):
            return watch
    raise AgentError("the agent's file.watch is not what the protocol says: watch")


def decode_file_event(notification: Notification) -> FileEvent:
    """Read a notification of a watch.

    Raises:
        AgentError: It is none, or not what it should be.
    """
    members = Members(notification.params, notification.method)
    match notification.method:
        case "file.changed":
            event = members.text("event", 32)
            if event not in _EVENTS:
                raise members.wrong("event")
            return FileChange(
                members.text("path", PATH_LIMIT), event, members.optional_text("from", PATH_LIMIT)
            )
        case "file.changes_lost":
            return ChangesLost()
    raise AgentError(f"the agent sent the unknown notification {notification.method[:80]!r}")
