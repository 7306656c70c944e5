"""The same tree in every form that a build writes, read back by each form's own tools."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from bouvet.errors import CommandFailed, FormatError, ImageError
from bouvet.formats import ext4
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree, Inode, directory, regular_file, symlink
from bouvet.image import exports
from bouvet.inspecting import inspect
from bouvet.layers import agent, namespaces
from bouvet.order import Order
from bouvet.pipeline import build
from bouvet.spec import Spec
from tests.conftest import TOOL_PATH
from tests.integration.ordinary_user import as_nobody
from tests.unit.layers.container_images import Blob, Layout, entry, folder, tar

TIME = 1_700_000_000
NEWEST = (TIME + 9) * 10**9
IDENTITY = UUID("12345678-1234-4234-8234-123456789abc")
TIMEOUT = 60
PRIVILEGED = (b"attributes", b"disk", b"null")
"""What only root can make."""
FORMS = ("ext4", "squashfs", "erofs", "tar", "qcow2")


class Fact(NamedTuple):
    """What every form keeps of a file. Times are whole seconds; contents stand for themselves."""

    mode: int
    uid: int
    gid: int
    mtime: int
    content: bytes
    device: tuple[int, int]
    links: int


def tree() -> FileTree:
    """Return a tree with a file of each kind; `deep` and `deep/er` are in no layer."""
    times = TIME * 10**9
    linked = regular_file(b"two names", mtime=times)
    return {
        b"": directory(0o711, uid=3, gid=4, mtime=(TIME + 1) * 10**9),
        b"empty": directory(0o1777, uid=70_000, gid=80_000, mtime=times),
        b"deep/er/file": regular_file(b"", 0o000, mtime=times),
        b"program": regular_file(b"\x7fELF" * 50_000, 0o4755, gid=7, mtime=times),
        b"one": linked,
        b"dir": directory(0o750, mtime=NEWEST),
        b"dir/another": linked,
        b"link": symlink(b"../etc/x", mtime=times),
        b"absolute": symlink(b"/empty", uid=5, mtime=times),
        b"null": Inode(stat.S_IFCHR | 0o666, device=(1, 3), mtime=times),
        b"disk": Inode(stat.S_IFBLK | 0o660, gid=6, device=(8, 300), mtime=times),
        b"pipe": Inode(stat.S_IFIFO | 0o600, mtime=times),
        "n\xf6n-ascii \xe9 \n".encode(): regular_file(b"utf-8", mtime=times),
        b"not utf-8 \xff": regular_file(b"bytes", mtime=times),
        b"attributes": Inode(
            stat.S_IFREG | 0o644, mtime=times, xattrs={b"user.a": b"1", b"security.b": b"\0"}
        ),
        b"sparse": Inode(stat.S_IFREG | 0o600, mtime=times, size=1 << 20),
    }


def expected() -> dict[bytes, Fact]:
    whole = {**tree(), b"deep": directory(mtime=NEWEST), b"deep/er": directory(mtime=NEWEST)}
    return facts(whole)


def facts(files: FileTree) -> dict[bytes, Fact]:
    names: dict[int, int] = {}
    for inode in files.values():
        names[id(inode)] = names.get(id(inode), 0) + 1
    return {
        path: Fact(
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime // 10**9,
            inode.content() if inode.is_regular else inode.target,
            inode.device,
            names[id(inode)],
        )
        for path, inode in files.items()
    }


def laid_out(root: Path) -> dict[bytes, Fact]:
    """Return the same of a directory's files."""
    found = {}
    for path in [root, *root.rglob("*")]:
        state = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        name = os.fsencode(path.relative_to(root))
        found[b"" if name == b"." else name] = Fact(
            state.st_mode,
            state.st_uid,
            state.st_gid,
            int(state.st_mtime_ns // 10**9),
            content,
            (os.major(state.st_rdev), os.minor(state.st_rdev)),
            1 if stat.S_ISDIR(state.st_mode) else state.st_nlink,
        )
    return found


def run(*argv: str | Path) -> bytes:
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT,
        env={"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return done.stdout


def erofs_mode(image: Path, path: str) -> int:
    """Return a file's mode as it is in an erofs (Linux, erofs_fs.h); dump.erofs shows a part of it."""
    told = re.search(rb"NID: (\d+)", run("dump.erofs", f"--path={path}", image))
    assert told is not None
    content = image.read_bytes()
    (metadata,) = struct.unpack_from("<I", content, 1024 + 40)
    (mode,) = struct.unpack_from("<H", content, metadata * 4096 + int(told[1]) * 32 + 4)
    return int(mode)


def write(form: str, path: Path, files: FileTree) -> Path:
    with path.open("x+b") as file:
        if form == "tar":
            exports.write_tar(files, file.fileno(), newest=NEWEST)
        elif form == "squashfs":
            exports.write_squashfs(files, file.fileno(), newest=NEWEST)
        else:
            scratch = path.with_name(path.name + ".scratch")
            scratch.mkdir()
            try:
                exports.write_erofs(
                    files,
                    file.fileno(),
                    newest=NEWEST,
                    identity=IDENTITY,
                    scratch=scratch,
                    as_root=namespaces.enter_namespaces(),
                )
            finally:
                namespaces.remove_tree(scratch)
    return path


@pytest.mark.needs_root
@pytest.mark.needs_tool("mksquashfs", "unsquashfs", "mkfs.erofs", "fsck.erofs", "dump.erofs", "qemu-img")
@pytest.mark.parametrize("form", ["tar", "squashfs", "erofs"])
def test_every_form_holds_the_same_tree(tmp_path: Path, form: str) -> None:
    image = write(form, tmp_path / "image", tree())
    root = tmp_path / "root"
    wanted = expected()
    match form:
        case "tar":
            root.mkdir()
            run("tar", "-C", root, "--same-owner", "--xattrs", "--xattrs-include=*", "-xpf", image)
        case "squashfs":
            run("unsquashfs", "-no-progress", "-d", root, image)
            # Of the root, mksquashfs before 4.6 takes the mode alone; its time is never the clock's.
            mine = laid_out(root)[b""]
            assert mine.mtime in {TIME + 1, NEWEST // 10**9}
            wanted[b""] = wanted[b""]._replace(uid=mine.uid, gid=mine.gid, mtime=mine.mtime)
        case _:
            run("fsck.erofs", f"--extract={root}", "--preserve", image)
            # It copies each name of a file, and the owner's change takes the set-user-ID bit away.
            wanted = {path: fact._replace(links=1) for path, fact in wanted.items()}
            assert erofs_mode(image, "/program") == wanted[b"program"].mode
            wanted[b"program"] = wanted[b"program"]._replace(mode=stat.S_IFREG | 0o755)
    assert laid_out(root) == wanted
    if form != "erofs":  # whose attributes fsck.erofs does not extract
        assert os.getxattr(root / "attributes", "user.a") == b"1"
        assert os.getxattr(root / "attributes", "security.b") == b"\0"


@pytest.mark.needs_root
@pytest.mark.needs_tool("mksquashfs", "unsquashfs", "mkfs.erofs", "fsck.erofs", "dump.erofs", "qemu-img")
@pytest.mark.parametrize("form", ["tar", "squashfs", "erofs"])
def test_equal_trees_have_equal_bytes(tmp_path: Path, form: str) -> None:
    first = write(form, tmp_path / "first", tree()).read_bytes()
    os.utime(tmp_path, (0, 0))
    backwards = dict(reversed(tree().items()))
    (tmp_path / "elsewhere").mkdir()
    assert write(form, tmp_path / "elsewhere" / "second", backwards).read_bytes() == first
    changed = {**tree(), b"one": regular_file(b"other")}
    assert write(form, tmp_path / "third", changed).read_bytes() != first


@pytest.mark.needs_tool("mkfs.erofs")
def test_a_path_through_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        write("erofs", tmp_path / "bad", {b"link": symlink(b"/"), b"link/etc/x": regular_file(b"")})


def unprivileged() -> FileTree:
    """Return the tree without what only root can make; with a capability (linux/capability.h) instead."""
    attributes = {b"user.a": b"1", b"security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)}
    ping = Inode(stat.S_IFREG | 0o755, mtime=TIME * 10**9, xattrs=attributes)
    return {path: inode for path, inode in tree().items() if path not in PRIVILEGED} | {b"ping": ping}


def write_unprivileged(path: str) -> None:
    """What the ordinary user does."""
    write("erofs", Path(path), unprivileged())


@pytest.mark.needs_root
@pytest.mark.needs_tool("mkfs.erofs", "newuidmap")
def test_an_ordinary_user_writes_the_same_erofs(tmp_path: Path, nobodys_directory: Path) -> None:
    target = nobodys_directory / "image"
    program = f"from tests.integration import test_formats as t; t.write_unprivileged({str(target)!r})"
    done = as_nobody(nobodys_directory, [sys.executable, "-c", program], subordinate="nobody:100000:100000\n")
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == write("erofs", tmp_path / "image", unprivileged()).read_bytes()
    assert [path.name for path in nobodys_directory.iterdir()] == ["image"]


@pytest.mark.needs_tool("mkfs.erofs")
def test_an_erofs_of_what_only_root_can_make_needs_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_root = namespaces.enter_namespaces()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(namespaces, "enter_namespaces", lambda: as_root)
    with pytest.raises(ImageError, match="only be written by root") as caught:
        write("erofs", tmp_path / "image", tree())
    assert caught.value.details == tuple(f"/{path.decode()}" for path in PRIVILEGED)


@pytest.mark.needs_tool("mksquashfs")
def test_a_program_that_fails_is_shown(tmp_path: Path) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(CommandFailed) as caught:
        exports.write_squashfs(tree(), full.fileno(), newest=NEWEST)
    assert caught.value.details[0].startswith("command: ")
    assert len(caught.value.details) > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_tool("qemu-img")
def test_a_qcow2_holds_the_image(tmp_path: Path) -> None:
    plan = ext4.plan_filesystem(tree(), ext4.Ext4Options(timestamp=TIME, free=8 << 20))
    for name in ("one", "two"):
        with (tmp_path / "raw").open("w+b") as raw, (tmp_path / name).open("x+b") as target:
            ext4.write_filesystem(plan, raw.fileno())
            exports.write_qcow2(raw.fileno(), target.fileno())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    run("qemu-img", "check", tmp_path / "one")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", tmp_path / "one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "raw").read_bytes()
    with Ext4Reader(tmp_path / "back") as reader:
        found = facts(reader.tree())
    del found[b"lost+found"]
    # The image has a time of its own for directories that nobody names.
    wanted = {
        path: fact._replace(mtime=TIME) if path.startswith(b"deep") else fact
        for path, fact in expected().items()
    }
    assert found == wanted


@pytest.mark.needs_root
@pytest.mark.needs_tool("mksquashfs", "unsquashfs", "mkfs.erofs", "fsck.erofs", "dump.erofs", "qemu-img")
def test_a_build_of_all_forms(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.index(
        layout.image([Blob.gzipped(tar(folder("etc"), entry("etc/x", b"x")))], config={"Cmd": ["/x"]})
    )
    cache = tmp_path / "cache"

    def order(*forms: str) -> Order:
        return Order(
            Spec.model_validate({"from": "oci:layout", "free": "1M", "formats": forms}),
            "x86_64",
            "box",
            tmp_path,
        )

    target = tmp_path / "out" / "box.ext4"
    done = build(order(*FORMS), target, cache=cache)
    paths = [target.with_suffix(f".{form}") for form in FORMS]
    assert [done.image, *done.others] == paths
    first = {path: path.read_bytes() for path in paths}
    with tarfile.open(tmp_path / "out" / "box.tar") as archive:
        names = {member.name for member in archive.getmembers()} - {"."}
    with Ext4Reader(target) as reader:
        assert {path.decode() for path in reader.tree()} - {"", "lost+found"} == names
    assert not list((tmp_path / "out").glob(".*"))
    manifest = json.loads((tmp_path / "out" / "box.squashfs.json").read_bytes())
    assert manifest["image"]["file"] == "box.squashfs"
    layers = {layer.name: layer.size for layer in inspect(target).layers}
    assert list(layers) == ["oci-1", "system", "agent"]
    assert layers["oci-1"] == 4096  # of /etc/x alone
    size = len(agent.binary("x86_64"))
    assert layers["agent"] is not None
    assert 0.9 * size < layers["agent"] < size + 4096  # blocks of zeros are holes
    # What is there is left alone, and what is not is written, with the same bytes.
    assert build(order(*FORMS), target, cache=cache).unchanged
    inode = target.stat().st_ino
    (tmp_path / "out" / "box.erofs").unlink()
    assert not build(order(*FORMS), target, cache=cache).unchanged
    assert target.stat().st_ino == inode
    assert {path: path.read_bytes() for path in paths} == first
    # An image is the same whatever is written beside it.
    alone = build(order("squashfs"), tmp_path / "alone" / "box.ext4", cache=cache)
    assert alone.image.read_bytes() == first[tmp_path / "out" / "box.squashfs"]
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == [
        "bouvet-agent",
        "box.squashfs",
        "box.squashfs.json",
    ]
