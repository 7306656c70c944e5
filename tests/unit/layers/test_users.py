"""Accounts: the lines that are added, and what is refused."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from passlib.hash import sha512_crypt

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, directory, regular_file
from bouvet.layers import users
from bouvet.layers.accounts import Accounts, Ids
from bouvet.layers.writer import LayerWriter
from bouvet.plan.inputs import UserInputs, UsersInputs
from tests.unit.layers.bench import bench

LOWER: FileTree = {
    b"etc": directory(),
    b"etc/passwd": regular_file(b"root:x:0:0:root:/root:/bin/bash\nold:x:1000:1000::/home/old:/bin/sh\n"),
    b"etc/group": regular_file(b"root:x:0:\nold:x:1000:\nsudo:x:27:\ndocker:x:998:old\ntaken:x:1001:\n"),
    b"etc/shadow": regular_file(b"root:*::0:99999:7:::\n", 0o640, gid=42),
    b"etc/gshadow": regular_file(b"root:*::\nsudo:*::\ndocker:!::old\n", 0o640, gid=42),
    b"etc/skel": directory(),
    b"etc/skel/.profile": regular_file(b"# skel\n"),
    b"bin/bash": regular_file(b"", 0o755),
    b"home": directory(mtime=7),
}


def user(name: str = "dev", **changes: Any) -> UserInputs:
    return replace(UserInputs(name, None, "/bin/bash", (), None, f"/home/{name}"), **changes)


def made(tmp_path: Path, *accounts: UserInputs, lower: FileTree = LOWER) -> FileTree:
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    layer = LayerWriter(directory)
    users.make(UsersInputs(accounts), bench(directory, lower).workshop, layer)
    layer.close()
    return layer.tree


def test_an_account_gets_its_lines_and_its_home(tmp_path: Path) -> None:
    tree = made(tmp_path, user(groups=("sudo", "docker"), password="secret"))
    assert tree[b"etc/passwd"].content().splitlines()[-1] == b"dev:x:1002:1002::/home/dev:/bin/bash"
    assert tree[b"etc/group"].content().splitlines()[2:] == [
        b"sudo:x:27:dev", b"docker:x:998:old,dev", b"taken:x:1001:", b"dev:x:1002:",
    ]  # fmt: skip
    assert tree[b"etc/gshadow"].content().splitlines()[1:] == [
        b"sudo:*::dev",
        b"docker:!::old,dev",
        b"dev:*::",
    ]
    shadow = tree[b"etc/shadow"]
    assert (shadow.mode, shadow.gid) == (0o100640, 42)
    name, hashed, *_ = shadow.content().splitlines()[-1].split(b":")
    assert name == b"dev"
    assert sha512_crypt.verify("secret", hashed)
    home = tree[b"home/dev"]
    assert (home.mode, home.uid, home.gid, home.mtime) == (0o040700, 1002, 1002, 7)
    assert (tree[b"home/dev/.profile"].uid, tree[b"home/dev/.profile"].content()) == (1002, b"# skel\n")
    assert b"home" not in tree


def test_without_a_password_nothing_opens_the_account(tmp_path: Path) -> None:
    assert made(tmp_path, user())[b"etc/shadow"].content().splitlines()[-1].startswith(b"dev:*:")


def test_several_accounts_get_different_numbers_and_may_share_groups(tmp_path: Path) -> None:
    tree = made(tmp_path, user("a"), user("b", groups=("a",)), user("c", uid=1500, home="/srv/c/home"))
    known = Accounts(LOWER | tree)
    assert (known.users["a"], known.users["b"]) == (Ids(1002, 1002), Ids(1003, 1003))
    assert known.users["c"] == Ids(1500, 1500)
    assert b"a:x:1002:b" in tree[b"etc/group"].content().splitlines()
    assert tree[b"srv"].uid == 0
    assert tree[b"srv/c/home"].uid == 1500


def test_a_home_that_is_there_is_left_alone(tmp_path: Path) -> None:
    assert b"home" not in made(tmp_path, user(home="/home"))


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (user("old"), "already"),
        (user(uid=1000), "that of 'old'"),
        (user(uid=1001), "that of 'taken'"),
        (user(groups=("nobody",)), "no group 'nobody'"),
        (user(shell="/bin/zsh"), "/bin/zsh"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, account: UserInputs, said: str) -> None:
    with pytest.raises(LayerError, match=said):
        made(tmp_path, account)


def test_a_tree_without_accounts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="/etc/shadow"):
        made(tmp_path, user(), lower={p: i for p, i in LOWER.items() if p != b"etc/shadow"})


def test_damaged_lines_are_passed_over() -> None:
    tree: FileTree = {
        b"etc/passwd": regular_file(b"a:x\nb:x:99999999999:1\nc:x:-1:1\n\xff:x:5:6:\nd:x:7:8\n"),
        b"etc/group": regular_file(b"g:x:9:\n:\n"),
    }
    known = Accounts(tree)
    assert known.users["d"] == Ids(7, 8)
    assert not {"a", "b", "c"} & set(known.users)
    assert known.owner("d", "g") == Ids(7, 9)
    assert known.owner("7", None) == Ids(7, 8)
    assert known.owner("55", None) == Ids(55, 55)
    with pytest.raises(LayerError, match="no user 'x'"):
        known.owner("x", None)
    with pytest.raises(LayerError, match="no group 'x'"):
        known.owner("d", "x")
