"""The users layer: accounts with their groups and homes, added to the tree's files of accounts."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.formats.tree import directory
from bouvet.layers import accounts
from bouvet.layers.accounts import GROUP, GSHADOW, PASSWD, SHADOW, Accounts, Ids
from bouvet.layers.paths import exists, real_path
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import UserInputs, UsersInputs

HOME_MODE = 0o700
"""A home's permission bits: HOME_MODE of Debian's login.defs(5)."""

_SKELETON = b"etc/skel"


def make(inputs: UsersInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the accounts.

    Raises:
        LayerError: One is there already, its number is taken, a group or its shell is missing, or the
            layers below have no files of accounts.
    """
    lower = workshop.lower
    known = Accounts(lower)
    files = {path: accounts.content(lower, path) for path in (PASSWD, GROUP, SHADOW)}
    if GSHADOW in lower:
        files[GSHADOW] = accounts.content(lower, GSHADOW)
    for user in inputs.users:
        ids = _ids(user, known)
        if not exists(lower, user.shell):
            raise LayerError(
                f"the shell {user.shell} of the user '{user.name}' is not in the image",
                hint="name one that a package brings, for example /bin/sh",
            )
        _add(user, ids, known, files)
        _make_home(user, ids, workshop, layer)
    for path, text in files.items():
        if text != accounts.content(lower, path):
            layer.add(path, accounts.edited(lower, path, text))


def _ids(user: UserInputs, known: Accounts) -> Ids:
    """Return the numbers of a new account and of its group, which may be there already."""
    if user.name in known.users:
        raise LayerError(f"there is a user '{user.name}' in the image already", hint="choose another name")
    group = known.groups.get(user.name)
    uid = user.uid if user.uid is not None else known.free_id()
    if (name := next((name for name, ids in known.users.items() if ids.uid == uid), None)) is not None:
        raise LayerError(f"the user '{user.name}' cannot have the number {uid}: it is that of '{name}'")
    if group is None and (name := next((name for name, gid in known.groups.items() if gid == uid), None)):
        raise LayerError(f"the group '{user.name}' cannot have the number {uid}: it is that of '{name}'")
    return Ids(uid, uid if group is None else group)


def _add(user: UserInputs, ids: Ids, known: Accounts, files: dict[bytes, bytes]) -> None:
    """Add an account's lines, in place."""
    hashed = "*" if user.password is None else accounts.password_hash(user.password, f"user {user.name}")
    files[PASSWD] = _with_line(files[PASSWD], f"{user.name}:x:{ids.uid}:{ids.gid}::{user.home}:{user.shell}")
    files[SHADOW] = _with_line(files[SHADOW], f"{user.name}:{hashed}::0:99999:7:::")
    if user.name not in known.groups:
        files[GROUP] = _with_line(files[GROUP], f"{user.name}:x:{ids.gid}:")
        if GSHADOW in files:
            files[GSHADOW] = _with_line(files[GSHADOW], f"{user.name}:*::")
    known.users[user.name], known.groups[user.name] = ids, ids.gid
    for group in user.groups:
        if group not in known.groups:
            raise LayerError(
                f"there is no group '{group}' for the user '{user.name}'",
                hint="groups come from packages and from other users of the spec above it",
            )
        for path in (GROUP, GSHADOW):
            if path in files:
                files[path] = _with_member(files[path], group, user.name)


def _with_line(text: bytes, line: str) -> bytes:
    return text + (b"" if not text or text.endswith(b"\n") else b"\n") + line.encode() + b"\n"


def _with_member(text: bytes, group: str, member: str) -> bytes:
    """Return a file of groups with a member added to one: the fourth field of its line."""
    lines = text.split(b"\n")
    for index, line in enumerate(lines):
        fields = line.split(b":")
        if fields[0] == group.encode() and len(fields) == 4:
            members = [name for name in fields[3].split(b",") if name]
            if member.encode() not in members:
                fields[3] = b",".join([*members, member.encode()])
                lines[index] = b":".join(fields)
    return b"\n".join(lines)


def _make_home(user: UserInputs, ids: Ids, workshop: Workshop, layer: LayerWriter) -> None:
    """Make a home with what every new home gets, unless it is there."""
    lower = workshop.lower
    home = real_path(lower, posixpath.normpath(user.home).strip("/").encode())
    if home in lower or home in layer.tree or not home:
        return
    mtime = newest_time(lower)
    Placing(layer, lower, mtime=mtime).directory(home.rpartition(b"/")[0])
    layer.add(home, directory(HOME_MODE, uid=ids.uid, gid=ids.gid, mtime=mtime))
    for path, inode in lower.items():
        if path.startswith(_SKELETON + b"/"):
            layer.add(home + path.removeprefix(_SKELETON), replace(inode, uid=ids.uid, gid=ids.gid))
