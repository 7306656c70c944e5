"""Layers for commands to run over: a tiny system of busybox, and what runs a script over it.

As a program, `python -m tests.integration.layered CACHE SCRIPT [NAME=VALUE...]` runs a script over the
tiny system and prints the digests of the layer's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bouvet.formats.tree import FileTree, Inode, directory, regular_file, symlink
from bouvet.layers import commands
from bouvet.layers.commands import Command
from bouvet.layers.layer import Layer
from bouvet.layers.maker import LowerLayers, Workshop
from bouvet.layers.merge import merge
from bouvet.layers.store import Store
from bouvet.layers.unpacked import UnpackedLayers
from bouvet.layers.writer import LayerWriter

MADE = 1_600_000_000_000_000_000
"""The time, in nanoseconds since 1970, of everything in the tiny system."""

CAPABILITY = bytes.fromhex("0100000200040000" + "00000000" * 3)
"""`cap_net_bind_service+ep` as the extended attribute `security.capability`, revision 2."""

APPLETS = (
    "cat", "chmod", "chown", "cp", "env", "find", "grep", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir",
    "mkfifo", "mknod", "mount", "mv", "nc", "ps", "rm", "rmdir", "sh", "sleep", "stat", "sync",
    "tail", "test", "touch", "true", "umount", "unshare",
)  # fmt: skip


def tiny_system() -> FileTree:
    """Return a system of one static program, with two users and some things to change."""
    busybox = shutil.which("busybox", path="/usr/bin:/bin")
    assert busybox is not None
    tree: FileTree = {b"": directory(mtime=MADE)}
    for name in (
        "bin",
        "data",
        "data/full",
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "var",
    ):
        tree[name.encode()] = directory(mtime=MADE)
    tree[b"home/ann"] = directory(0o700, uid=1000, gid=1000, mtime=MADE)
    tree[b"bin/busybox"] = regular_file(Path(busybox).read_bytes(), 0o755, mtime=MADE)
    for name in APPLETS:
        tree[b"bin/" + name.encode()] = symlink(b"busybox", mtime=MADE)
    accounts = b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n"
    tree[b"etc/passwd"] = regular_file(accounts, mtime=MADE)
    tree[b"etc/group"] = regular_file(b"root:x:0:\nann:x:1000:\nstaff:x:50:ann\n", mtime=MADE)
    tree[b"data/one"] = tree[b"data/two"] = regular_file(b"linked\n", mtime=MADE)
    for file in (b"full/a", b"full/b", b"plain"):
        tree[b"data/" + file] = regular_file(file + b"\n", mtime=MADE)
    tree[b"data/able"] = regular_file(b"able\n", 0o755, mtime=MADE)
    tree[b"data/able"].xattrs[b"security.capability"] = CAPABILITY
    tree[b"data/owned"] = regular_file(b"owned\n", 0o4751, uid=12, gid=34, mtime=MADE)
    tree[b"data/owned"].xattrs[b"user.note"] = b"\0\xffkept"
    return tree


def commit(store: Store, name: str, tree: FileTree) -> Layer:
    """Return a layer of a tree."""

    def fill(writer: LayerWriter) -> None:
        for path, inode in tree.items():
            writer.add(path, inode)

    return store.make(name, hashlib.sha256(name.encode()).hexdigest(), fill, lambda: None)


def run_script(
    store: Store,
    layers: Sequence[Layer],
    script: str,
    *,
    name: str = "script",
    output: Callable[[str], None] = lambda line: None,
    keep: bool = False,
    architecture: str = platform.machine(),
    **settings: Any,
) -> Layer:
    """Return the layer of what a script changes over others."""
    unpacked = UnpackedLayers(store)

    def fill(writer: LayerWriter) -> None:
        trees = [layer.tree for layer in layers]
        workshop = Workshop(
            scratch=store.scratch(),
            downloads=store.downloads("run"),
            lower=merge(trees),
            progress=lambda message, fraction: None,
            output=output,
            below=LowerLayers(
                trees=trees,
                directories=lambda: unpacked.directories(layers, lambda: None),
                architecture=architecture,
                cache=store.cache,
                keep_failed=(lambda place: store.keep(place, name)) if keep else None,
            ),
        )
        command = Command(
            ("/bin/sh", "-eu", commands.FILES + "/script"), files={"script": script.encode()}, **settings
        )
        commands.run_over_layers(command, workshop, writer)

    return store.make(name, hashlib.sha256(f"{name} {script}".encode()).hexdigest(), fill, lambda: None)


def digests(store: Store, layer: Layer) -> dict[str, str]:
    """Return the digests of a committed layer's files."""
    place = store.layer_directory(layer.digest)
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in ("index.json", "blob")}


def described(tree: FileTree) -> dict[str, tuple[object, ...]]:
    """Return what `LISTING` prints of a tree: type and mode, owner, size, time, number of names, target."""
    names: dict[int, int] = {}
    for inode in tree.values():
        names[id(inode)] = names.get(id(inode), 0) + 1
    return {
        "/" + path.decode(): (
            f"{inode.mode:x}",
            f"{inode.uid}:{inode.gid}",
            inode.size if inode.is_regular else 0,
            inode.mtime // 1_000_000_000,
            1 if inode.is_directory else names[id(inode)],
        )
        for path, inode in tree.items()
    }


LISTING = """
find / -xdev ! -type d -exec stat -c '%f %u:%g %s %Y %h %n' {} +
find / -xdev -type d -exec stat -c '%f %u:%g %s %Y %h %n' {} +
"""


def listed(lines: Sequence[str]) -> dict[str, tuple[object, ...]]:
    """Return what `LISTING` printed, in the form of `described`."""
    found: dict[str, tuple[object, ...]] = {}
    for line in lines:
        mode, owner, size, time, names, path = line.split(" ", 5)
        kind = stat.S_IFMT(int(mode, 16))
        is_directory = kind == stat.S_IFDIR
        found[path] = (
            mode,
            owner,
            int(size) if kind == stat.S_IFREG else 0,
            int(time),
            1 if is_directory else int(names),
        )
    return found


def inode_of(layer: Layer, path: str) -> Inode:
    """Return an entry of a layer."""
    return layer.tree[path.encode()]


def said(line: str) -> None:
    """Pass a line on at once: who reads it waits for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(cache: str, script: str) -> None:
    """Run a script over the tiny system."""
    with Store(Path(cache)) as store:
        layer = run_script(store, [commit(store, "tiny", tiny_system())], script, output=said)
        json.dump(digests(store, layer), sys.stdout)


if __name__ == "__main__":
    os.umask(0o077)
    main(*sys.argv[1:])
