"""How images differ."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.formats.tree import (
    BLOCK,
    FileTree,
    Inode,
    MemorySource,
    Segment,
    directory,
    regular_file,
    symlink,
)
from bouvet.image import comparison
from bouvet.image.comparison import Comparison, FileChange, PackageChange, compare_images
from tests.unit.image.package_tree import TIME, package_tree, write_image

OWN = b"opt/own"


def changed(tree: FileTree, **values: object) -> None:
    tree[OWN] = replace(tree[OWN], **values)  # type: ignore[arg-type]


def compared(tmp_path: Path, before: FileTree, after: FileTree) -> Comparison:
    one, other = write_image(tmp_path / "one.ext4", before), write_image(tmp_path / "other.ext4", after)
    return compare_images(one, other)


def test_equal_images(tmp_path: Path) -> None:
    found = compared(tmp_path, package_tree(), package_tree())
    assert found.equal
    assert found == Comparison((), (), (), (), ())


@pytest.mark.parametrize(
    ("change", "aspects"),
    [
        (lambda t: t.update({OWN: regular_file(b"OWN", mtime=t[OWN].mtime)}), ("content",)),
        (lambda t: t.update({OWN: regular_file(b"longer", mtime=t[OWN].mtime)}), ("content",)),
        (lambda t: changed(t, mode=stat.S_IFREG | 0o600), ("mode",)),
        (lambda t: changed(t, uid=70_000), ("owner",)),
        (lambda t: changed(t, gid=7), ("owner",)),
        (lambda t: changed(t, mtime=TIME * 10**9 + 1), ("mtime",)),
        (lambda t: changed(t, xattrs={b"user.a": b"1"}), ("xattrs",)),
        (lambda t: changed(t, mode=stat.S_IFREG | 0o600, uid=1), ("mode", "owner")),
        (lambda t: t.update({OWN: symlink(b"own")}), ("type",)),
        (lambda t: t.update({OWN: directory()}), ("type",)),
    ],
)
def test_what_differs_of_a_file(
    tmp_path: Path, change: Callable[[FileTree], None], aspects: tuple[str, ...]
) -> None:
    after = package_tree()
    change(after)
    found = compared(tmp_path, package_tree(), after)
    assert found.changed == (FileChange("/opt/own", aspects),)
    assert (found.packages, found.added, found.removed, found.equal) == ((), (), (), False)


def test_targets_devices_and_names(tmp_path: Path) -> None:
    before, after = package_tree(), package_tree()
    before[b"a"], after[b"a"] = symlink(b"b"), symlink(b"c")
    before[b"dev"], after[b"dev"] = (Inode(stat.S_IFCHR, device=(1, minor)) for minor in (3, 5))
    before[b"one"] = before[b"two"] = regular_file(b"x")
    after[b"one"], after[b"two"] = regular_file(b"x"), regular_file(b"x")
    assert compared(tmp_path, before, after).changed == (
        FileChange("/a", ("target",)),
        FileChange("/dev", ("device",)),
        FileChange("/one", ("links",)),
        FileChange("/two", ("links",)),
    )


def test_files_and_packages_that_come_and_go(tmp_path: Path) -> None:
    before, after = package_tree(), package_tree()
    del after[OWN]
    after[b"opt/\xff"] = regular_file(b"")
    record = b"usr/lib/node_modules/npm/package.json"
    after[record] = regular_file(b'{"name": "npm", "version": "9.0.1"}', mtime=before[record].mtime)
    del before[b"usr/local/cargo/.crates.toml"]
    after[b"var/lib/dpkg/status"] = regular_file(b"", mtime=TIME * 10**9)
    found = compared(tmp_path, before, after)
    assert found.removed == ("/opt/own",)
    assert found.added == ("/opt/\\xff", "/usr/local/cargo/.crates.toml")
    assert PackageChange("cargo", "ripgrep", (), ("14.1.0",)) in found.packages
    assert PackageChange("deb", "libbig", ("1:2.0+dfsg-1",), ()) in found.packages
    assert PackageChange("npm", "npm", ("9.0.0",), ("9.0.1",)) in found.packages


def test_a_hole_is_zeros(tmp_path: Path) -> None:
    """Equal bytes are equal, wherever the holes are; and a file may have a hole of a terabyte."""

    def sparse(*blocks: tuple[int, bytes]) -> Inode:
        segments = tuple(Segment(at * BLOCK, BLOCK, MemorySource(byte * BLOCK), 0) for at, byte in blocks)
        return Inode(stat.S_IFREG | 0o644, size=1 << 40, segments=segments)

    before, after = package_tree(), package_tree()
    before[b"same"], after[b"same"] = sparse((1, b"a"), (5, b"\0")), sparse((0, b"\0"), (1, b"a"))
    before[b"other"], after[b"other"] = sparse((1, b"a"), (5, b"b")), sparse((1, b"a"), (5, b"\0"))
    assert compared(tmp_path, before, after).changed == (FileChange("/other", ("content",)),)


def test_reading_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_TIMES_READ", 0)
    with pytest.raises(FormatError, match="share so many blocks"):
        compared(tmp_path, package_tree(), package_tree())


def test_the_size_of_the_image(tmp_path: Path) -> None:
    before, after = package_tree(), package_tree()
    after[b"opt/big"] = regular_file(b"x" * (1 << 20))
    found = compared(tmp_path, before, after)
    assert [change.what for change in found.image] == ["size"]
    assert int(found.image[0].after) - int(found.image[0].before) >= 1 << 20
