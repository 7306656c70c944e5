"""Who a user of a tree is when it runs a program: ids, further groups, home directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bouvet.layers.accounts import GROUP, MAXIMUM_FILE, PASSWD, Accounts

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree


@dataclass(frozen=True, slots=True)
class Login:
    """What a program gets from its user: ids, further groups' ids, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def find_login(tree: FileTree, user: str) -> Login:
    """Return what a program of a user gets. Root needs no entry in the tree, and a number none.

    Raises:
        LayerError: There is no such user.
    """
    accounts = Accounts(tree)
    ids = accounts.owner(user, None)
    members = (row for row in _rows(tree, GROUP, 4) if user in row[3].split(","))
    groups = {accounts.groups[row[0]] for row in members if row[0] in accounts.groups}
    homes = [row[5] for row in _rows(tree, PASSWD, 7) if user in {row[0], row[2]}]
    home = homes[0] if homes else ("/root" if user == "root" else "/")
    return Login(ids.uid, ids.gid, tuple(sorted(groups)), home or "/")


def _rows(tree: FileTree, path: bytes, fields: int) -> list[list[str]]:
    inode = tree.get(path)
    if inode is None or not inode.is_regular or inode.size > MAXIMUM_FILE:
        return []
    rows = [line.split(":") for line in inode.content().decode(errors="replace").splitlines()]
    return [row for row in rows if len(row) == fields]
