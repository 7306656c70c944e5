"""Archives as the field's tools see them: skopeo by both transports, umoci for what a container gets."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bouvet.formats.tree import FileTree, Inode, directory, regular_file
from bouvet.layers.merge import merge
from tests.formats.ext4 import trees
from tests.unit.image.archives import write

WHITEOUT = Inode(stat.S_IFCHR, device=(0, 0))
TRANSPORTS = ("oci-archive", "docker-archive")
TIMEOUT = 120

pytestmark = pytest.mark.needs_tool("skopeo", "umoci")


def run(*argv: str | Path) -> bytes:
    done = subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def inspect(transport: str, archive: Path, *flags: str) -> Any:
    return json.loads(run("skopeo", "inspect", *flags, f"{transport}:{archive}"))


def base() -> FileTree:
    """What images are made of, and the odd things that they may be made of."""
    tree: FileTree = {b"": directory(0o755, mtime=trees.SECOND)}
    for name, make in (
        (b"files", trees.file_sizes), (b"links", trees.hard_links), (b"modes", trees.modes),
        (b"owners", trees.owners), (b"odd", trees.odd_names), (b"symlinks", trees.symlinks),
        (b"devices", trees.devices), (b"attributes", trees.attributes),
    ):  # fmt: skip
        tree |= {name: directory()} | {name + b"/" + path: inode for path, inode in make().items() if path}
    # A whiteout in truth; what stays out; a name that tar cannot hold; a value that it cannot hold.
    for path in (b"c0-0", b"socket"):
        del tree[b"devices/" + path]
    for path in (b"high bytes", b"empty value"):
        del tree[b"attributes/" + path]
    tree[b"sparse"] = Inode(stat.S_IFREG | 0o644, size=(3 << 20) + 1, mtime=1_700_000_000_123_456_789)
    tree[b"kept"] = directory(0o711, uid=7, gid=8, mtime=5 * trees.SECOND)
    tree |= {name: directory() for name in (b"emptied", b"replaced")}
    for name in (b"kept/changed", b"kept/gone", b"emptied/old", b"replaced/by a file", b"becomes"):
        tree[name] = regular_file(b"of the base")
    return tree


def changes() -> FileTree:
    """An upper layer: removals, replacements of every kind, and additions below the base's directories."""
    return {
        b"kept/changed": regular_file(b"changed", 0o600, uid=1),
        b"kept/gone": WHITEOUT,
        b"kept/added": regular_file(b"added"),
        b"links": WHITEOUT,
        b"emptied": Inode(stat.S_IFDIR | 0o700, xattrs={b"trusted.overlay.opaque": b"y"}),
        b"emptied/new": regular_file(b"new"),
        b"replaced": regular_file(b"a file now"),
        b"becomes": directory(0o750),
        b"becomes/a directory": regular_file(b"inside"),
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oci") / "image.tar"
    write(path, base(), changes(), name="team/box", tag="v1", command=("/bin/sh",), user="7")
    return path


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_skopeo_inspects_it(transport: str, archive: Path) -> None:
    seen = inspect(transport, archive)
    settings = inspect(transport, archive, "--config")
    assert (seen["Architecture"], seen["Os"]) == ("amd64", "linux")
    assert seen["Layers"] == settings["rootfs"]["diff_ids"]
    assert len(seen["Layers"]) == 2
    assert settings["config"] == {"User": "7", "Cmd": ["/bin/sh"]}


def test_skopeo_finds_it_by_name(archive: Path) -> None:
    for reference in (f"oci-archive:{archive}:v1", f"docker-archive:{archive}:team/box:v1"):
        assert json.loads(run("skopeo", "inspect", reference))["Architecture"] == "amd64"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_skopeo_refuses_a_damaged_layer(transport: str, archive: Path, tmp_path: Path) -> None:
    damaged = bytearray(archive.read_bytes())
    place = damaged.index(b"changed", damaged.index(b"kept/changed"))
    damaged[place] ^= 1
    (tmp_path / "damaged.tar").write_bytes(damaged)
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"{transport}:{tmp_path}/damaged.tar", f"dir:{tmp_path}/out"],
        check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode != 0
    assert b"digest" in done.stderr.lower()


@pytest.mark.needs_root
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_unpacked_it_is_the_merged_tree(transport: str, archive: Path, tmp_path: Path) -> None:
    layout = f"{tmp_path}/layout:v1"
    run("skopeo", "--insecure-policy", "copy", f"{transport}:{archive}", f"oci:{layout}")
    run("umoci", "unpack", "--image", layout, tmp_path / "bundle")
    assert differences(merge([base(), changes()]), tmp_path / "bundle" / "rootfs") == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mode", lambda path: path.chmod(0o600)),
        ("mtime", lambda path: os.utime(path, ns=(0, 1))),
        ("xattrs", lambda path: os.setxattr(path, "user.x", b"2")),
        ("content", lambda path: path.write_bytes(b"other")),
        ("missing", lambda path: path.unlink()),
        ("too much", lambda path: (path.parent / "more").touch()),
        ("no link", lambda path: (path.unlink(), path.symlink_to("b"))),
    ],
)
def test_the_comparison_sees_a_difference(name: str, change: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    path.chmod(0o644)
    os.setxattr(path, "user.x", b"1")
    os.utime(path, ns=(0, 0))
    (tmp_path / "b").hardlink_to(path)
    inode = regular_file(b"content", uid=os.getuid(), gid=os.getgid())
    inode.xattrs[b"user.x"] = b"1"
    tree = {b"a": inode, b"b": inode}
    assert differences(tree, tmp_path) == []
    change(path)
    found = differences(tree, tmp_path)
    assert found
    assert any(name in line for line in found)


def differences(tree: FileTree, root: Path) -> list[str]:
    """Return how a directory differs from a tree; times count where the tree names the path itself."""
    found = paths_below(os.fsencode(root))
    parents = {path.rsplit(b"/", depth)[0] for path in tree for depth in range(1, path.count(b"/") + 1)}
    wrong = [f"{path!r} is missing" for path in set(tree) - found]
    wrong += [f"{path!r} is too much" for path in found - set(tree) - parents - {b""}]
    names: dict[int, tuple[int, bytes]] = {}
    for path in sorted(set(tree) & found):
        inode, real = tree[path], os.path.join(os.fsencode(root), path)  # noqa: PTH118  (bytes)
        expected, seen = wanted(inode), actual(real)
        wrong += [
            f"{path!r}: {key} {seen[key]!r}, not {expected[key]!r}"
            for key in expected
            if expected[key] != seen[key]
        ]
        if not inode.is_directory:
            first = names.setdefault(id(inode), (os.lstat(real).st_ino, path))
            if first[0] != os.lstat(real).st_ino:
                wrong.append(f"{path!r} is no link to {first[1]!r}")
    return wrong


def paths_below(root: bytes) -> set[bytes]:
    found = {b""}
    for directory_path, directories, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(directory_path, name), root) for name in directories + files}  # noqa: PTH118
    return found


def wanted(inode: Inode) -> dict[str, Any]:
    return {
        "mode": oct(inode.mode),
        "owner": (inode.uid, inode.gid),
        "mtime": inode.mtime,
        "device": inode.device,
        "target": inode.target,
        "xattrs": inode.xattrs,
        "content": inode.content() if inode.is_regular else b"",
    }


def actual(path: bytes) -> dict[str, Any]:
    status = os.lstat(path)
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "mtime": status.st_mtime_ns,
        "device": (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        "target": os.readlink(path) if stat.S_ISLNK(status.st_mode) else b"",  # noqa: PTH115  (bytes)
        "xattrs": {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
        "content": Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(status.st_mode) else b"",
    }
