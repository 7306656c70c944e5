"""The images of both architectures, side by side: they differ only where they must."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree
from tests.conftest import BuiltImage

pytestmark = [
    pytest.mark.needs_tool("mmdebstrap", "qemu-aarch64-static", "qemu-x86_64-static"),
    pytest.mark.slow,
]

# Programs for the architecture, and what tells which it is.
DIFFERENT_FILES = {"/usr/local/bin/bouvet-agent", "/usr/share/bouvet/manifest.json"}


@dataclass(frozen=True)
class Contents:
    """What is compared of an image.

    Attributes:
        packages: Each package's version, without the number of a rebuild for one architecture only.
        own: Each file that no package brought: its kind, owner and content.
    """

    packages: dict[str, str]
    own: dict[str, str]


def contents(image: BuiltImage) -> Contents:
    with Ext4Reader(image.path) as reader:
        tree = reader.tree()
        status = tree[b"var/lib/dpkg/status"].content().decode()
        packages = dict(re.findall(r"(?m)^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", status))
        packages = {name: re.sub(r"\+b\d+$", "", version) for name, version in packages.items()}
        packaged = packaged_paths(tree)
        own = {}
        for path, inode in tree.items():
            name = "/" + path.decode()
            if name in packaged or inode.is_directory or generated(name):
                continue
            content = inode.target if inode.is_symlink else inode.content()
            own[name] = f"{inode.mode:o} {inode.uid}:{inode.gid} {content!r}"
        return Contents(packages, own)


def packaged_paths(tree: FileTree) -> set[str]:
    """Return the paths that dpkg lists, as they are in a merged /usr."""
    lines: set[str] = set()
    for path, inode in tree.items():
        if path.startswith(b"var/lib/dpkg/info/") and path.endswith(b".list"):
            lines.update(inode.content().decode().splitlines())
    return {re.sub(r"^/(bin|lib|lib64|sbin)/", r"/usr/\1/", line) for line in lines}


def generated(path: str) -> bool:
    """Return whether a package's scripts have made a file, not bouvet: caches, registers, compiled code."""
    places = (
        "/var/lib/dpkg/", "/var/lib/apt/", "/var/lib/systemd/", "/var/lib/pam/", "/var/lib/ucf/",
        "/var/cache/", "/etc/ld.so.cache", "/etc/alternatives/",
    )  # fmt: skip
    return path.startswith(places)


def side_by_side(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Return a line for each difference."""
    return [
        f"{name}: {first.get(name, '(missing)')[:80]} | {second.get(name, '(missing)')[:80]}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


@pytest.fixture(scope="module")
def both(base_image: BuiltImage, other_base_image: BuiltImage) -> tuple[Contents, Contents]:
    return contents(base_image), contents(other_base_image)


def test_the_packages_are_the_same(both: tuple[Contents, Contents]) -> None:
    mine, theirs = both
    assert len(mine.packages) > 80
    assert side_by_side(mine.packages, theirs.packages) == []


def test_our_own_files_are_the_same_but_for_the_agent_and_the_manifest(
    both: tuple[Contents, Contents],
) -> None:
    mine, theirs = both
    assert {"/etc/fstab", "/etc/systemd/system/bouvet-agent.service", *DIFFERENT_FILES} <= mine.own.keys()
    different = {line.partition(": ")[0] for line in side_by_side(mine.own, theirs.own)}
    assert different == DIFFERENT_FILES, side_by_side(mine.own, theirs.own)


def test_a_difference_is_shown() -> None:
    lines = side_by_side({"a": "1", "b": "1"}, {"a": "2", "c": "1"})
    assert lines == ["a: 1 | 2", "b: 1 | (missing)", "c: (missing) | 1"]
