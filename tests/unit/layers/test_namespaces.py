"""Entering namespaces, and what is said where that is refused."""

from __future__ import annotations

import pytest

from bouvet.layers import namespaces


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('unshare: no line matching user "me" in /etc/subuid', "usermod"),
        ("newuidmap: write to uid_map failed: Operation not permitted", "usermod"),
        ("unshare: unshare failed: Operation not permitted", "sysctl"),
    ],
)
def test_the_hint_for_a_refused_namespace(text: str, hint: str) -> None:
    assert hint in namespaces.namespace_hint(text)


@pytest.mark.needs_tool("unshare")
def test_root_needs_no_user_namespace() -> None:
    argv = namespaces.enter_namespaces(user=0)
    assert "--user" not in argv
    assert {"--mount", "--pid", "--fork", "--kill-child"} <= set(argv)
