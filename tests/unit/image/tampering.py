"""Changes of a tree, one each."""

from __future__ import annotations

from collections.abc import Callable

from bouvet.formats.tree import FileTree, regular_file, symlink

Tamper = Callable[[FileTree], None]


def put(path: str, content: bytes | str = b"", mode: int = 0o644, uid: int = 0) -> Tamper:
    raw = content.encode() if isinstance(content, str) else content

    def tamper(tree: FileTree) -> None:
        tree[path.encode()] = regular_file(raw, mode, uid=uid)

    return tamper


def edit(path: str, old: str, new: str) -> Tamper:
    def tamper(tree: FileTree) -> None:
        content = tree[path.encode()].content()
        assert old.encode() in content
        tree[path.encode()] = regular_file(content.replace(old.encode(), new.encode()))

    return tamper


def link(path: str, target: str) -> Tamper:
    def tamper(tree: FileTree) -> None:
        tree[path.encode()] = symlink(target.encode())

    return tamper


def drop(path: str) -> Tamper:
    def tamper(tree: FileTree) -> None:
        del tree[path.encode()]

    return tamper
