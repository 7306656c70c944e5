"""Accounts of a tree: /etc/passwd, group, shadow and gshadow, read and edited as text.

Formats: passwd(5), group(5), shadow(5), gshadow(5).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from passlib.hash import sha512_crypt

from bouvet.errors import LayerError
from bouvet.formats.tree import MemorySource, Segment

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree, Inode

PASSWD = b"etc/passwd"
GROUP = b"etc/group"
SHADOW = b"etc/shadow"
GSHADOW = b"etc/gshadow"

MAXIMUM_FILE = 4 << 20
"""Bytes that a file of accounts may have: a tree may be anybody's."""

_LARGEST_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Ids:
    """A user's number and that of the user's own group."""

    uid: int
    gid: int


class Accounts:
    """The accounts of a tree.

    Args:
        tree: The tree; its files may be missing or damaged, of which what can be read counts.

    Attributes:
        users: Ids by name.
        groups: Numbers by name.
    """

    def __init__(self, tree: FileTree) -> None:
        self.users: dict[str, Ids] = {}
        self.groups: dict[str, int] = {}
        for fields in _rows(tree, PASSWD):
            if len(fields) >= 4 and None not in (ids := (_number(fields[2]), _number(fields[3]))):
                self.users.setdefault(fields[0], Ids(ids[0] or 0, ids[1] or 0))
        for fields in _rows(tree, GROUP):
            if len(fields) >= 3 and (gid := _number(fields[2])) is not None:
                self.groups.setdefault(fields[0], gid)

    def owner(self, owner: str, group: str | None) -> Ids:
        """Return the ids that names or numbers stand for; a number's own group is the user's, else it.

        Raises:
            LayerError: There is no such account.
        """
        user = self.users.get(owner)
        if user is None and owner == "root":
            user = Ids(0, 0)
        if user is None:
            uid = _number(owner)
            if uid is None:
                raise LayerError(
                    f"there is no user '{owner}' in the image",
                    hint="name one of [[users]] or of a package, or write a number",
                )
            user = next((ids for ids in self.users.values() if ids.uid == uid), Ids(uid, uid))
        if group is None:
            return user
        gid = 0 if group == "root" else self.groups.get(group, _number(group))
        if gid is None:
            raise LayerError(f"there is no group '{group}' in the image", hint="or write its number")
        return Ids(user.uid, gid)

    def free_id(self) -> int:
        """Return the first number from 1000 that is neither a user's nor a group's."""
        taken = {ids.uid for ids in self.users.values()} | set(self.groups.values())
        return next(number for number in range(1000, _LARGEST_ID) if number not in taken)


def password_hash(password: str, salt_source: str) -> str:
    """Return the SHA-512 `crypt` hash of a password, with a salt that depends on `salt_source` only.

    The same spec must give the same image, so the salt is not random; and it does not depend on the
    password, because a fast digest of the password would be easier to reverse than its slow hash.
    """
    salt = hashlib.sha256(f"bouvet:{salt_source}".encode()).hexdigest()[:16]
    hashed: str = sha512_crypt.using(salt=salt, rounds=5000).hash(password)
    return hashed


def content(tree: FileTree, path: bytes) -> bytes:
    """Return a file of accounts.

    Raises:
        LayerError: It is not there, is no file, or is too long.
    """
    inode = tree.get(path)
    if inode is None or not inode.is_regular:
        raise LayerError(
            f"the layers below have no /{path.decode()}", hint="accounts need Debian's base packages"
        )
    if inode.size > MAXIMUM_FILE:
        raise LayerError(f"/{path.decode()} has {inode.size} bytes")
    return inode.content()


def edited(tree: FileTree, path: bytes, text: bytes) -> Inode:
    """Return the inode of a file of the tree with another content, and all else as it is."""
    segments = (Segment(0, len(text), MemorySource(text), 0),) if text else ()
    return replace(tree[path], size=len(text), segments=segments)


def _rows(tree: FileTree, path: bytes) -> list[list[str]]:
    inode = tree.get(path)
    if inode is None or not inode.is_regular or inode.size > MAXIMUM_FILE:
        return []
    return [line.split(":") for line in inode.content().decode(errors="replace").splitlines()]


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        return None
    return int(text) if int(text) <= _LARGEST_ID else None
