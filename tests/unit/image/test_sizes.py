"""What is large in a tree, and images that are larger than they may be."""

from __future__ import annotations

import pytest

from bouvet.errors import ImageTooLarge
from bouvet.formats.tree import FileTree, regular_file
from bouvet.image.sizes import by_directory, by_package, check_size

MIB = 1 << 20
STATUS = b"""\
Package: libbig
Status: install ok installed
Version: 1
Architecture: amd64

Package: data
Status: install ok installed
Version: 1
Architecture: all
"""


def tree() -> FileTree:
    big = regular_file(b"x" * (3 * MIB))
    return {
        b"usr/lib/big/one.so": big,
        b"usr/lib/big/same.so": big,
        b"usr/share/data": regular_file(b"x" * MIB),
        b"usr/bin/tool": regular_file(b"x"),
        b"var/lib/dpkg/status": regular_file(STATUS),
        b"var/lib/dpkg/info/libbig:amd64.list": regular_file(b"/.\n/lib\n/lib/big/one.so\n"),
        b"var/lib/dpkg/info/data.list": regular_file(b"/usr/share/data\n/gone\n"),
    }


def test_directories_that_explain_the_size() -> None:
    sizes = by_directory(tree())
    assert list(sizes)[:3] == ["/usr", "/usr/lib/big", "/usr/share"]
    assert sizes["/usr"] == 4 * MIB + 4096
    assert sizes["/usr/lib/big"] == 3 * MIB  # two names are one file
    assert "/usr/lib" not in sizes  # it holds nothing else


def test_packages_also_where_directories_are_links() -> None:
    assert by_package(tree()) == {"libbig": 3 * MIB, "data": MIB}


def test_a_budget_that_is_exceeded() -> None:
    check_size(tree(), 5 * MIB, None)
    check_size(tree(), 5 * MIB, 5 * MIB)
    with pytest.raises(ImageTooLarge, match=r"5\.0 MiB, which is 1\.0 MiB more") as caught:
        check_size(tree(), 5 * MIB, 4 * MIB)
    assert caught.value.exit_code == 7
    assert caught.value.needed == 5 * MIB
    assert any(line.split() == ["3.0", "MiB", "libbig"] for line in caught.value.details)
    assert any(line.split() == ["3.0", "MiB", "/usr/lib/big"] for line in caught.value.details)
