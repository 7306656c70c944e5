"""A tree in other forms than ext4: a tar, a squashfs, an erofs; and an ext4 image as a qcow2.

`mksquashfs`, `mkfs.erofs` and `qemu-img` do the work; equal trees give equal bytes by the same version of
these. What a form cannot hold: a squashfs has whole seconds and no ACLs, and of the three none has sockets
(`bouvet.image.tar`).
"""

from __future__ import annotations

import collections
import dataclasses
import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO
from uuid import UUID

from bouvet import process
from bouvet.errors import CommandFailed, FormatError, ImageError
from bouvet.formats.tree import FileTree, Inode, directory
from bouvet.image.tar import PIECE, write_layer

_BILLION = 1_000_000_000
_ZEROS = bytes(PIECE)
_LOG_TAIL = 1 << 16
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_SQUASHFS_ATTRIBUTES = (b"user.", b"trusted.", b"security.")


def write_tar(tree: FileTree, descriptor: int, *, newest: int) -> None:
    """Write a tree as a tar (pax), uncompressed.

    Args:
        tree: The files.
        descriptor: An empty file.
        newest: The time of directories that the tree names no attributes of, in nanoseconds since 1970.

    Raises:
        FormatError: The tree is impossible, or a tar cannot hold it.
    """
    with open(descriptor, "wb", closefd=False) as file:
        write_layer(_whole(tree, newest), {}, _Stream(file))


def write_squashfs(tree: FileTree, descriptor: int, *, newest: int) -> None:
    """Write a tree as a squashfs, compressed by zstd. The arguments are as for `write_tar`.

    Raises:
        CommandFailed: mksquashfs failed.
        FormatError: The tree is impossible.
        ToolMissing: It is not installed.
    """
    program = process.find_tool("mksquashfs", package="squashfs-tools")
    whole = _with_attributes(_whole(tree, newest), _SQUASHFS_ATTRIBUTES)
    root = whole[b""]
    options = {
        "root-time": max(0, root.mtime // _BILLION),
        "root-mode": f"{root.mode & 0o7777:o}",
        "root-uid": root.uid,
        "root-gid": root.gid,
    }
    # With an export table, which -tar leaves out by default, an overlay can follow hard links.
    # From a tar, versions before 4.6 know the root's mode alone: root owns it, and its time is the newest.
    argv = [program, "-", _place(descriptor), "-tar", "-noappend", "-quiet", "-no-progress", "-exports"]
    argv += ["-comp", "zstd"]
    argv += [word for name, value in options.items() for word in (f"-{name}", str(value))]
    _run(argv, (descriptor,), tree=whole, environment=_dated(newest))


def write_erofs(
    tree: FileTree,
    descriptor: int,
    *,
    newest: int,
    identity: UUID,
    scratch: Path,
    as_root: Sequence[str],
) -> None:
    """Write a tree as an erofs, compressed by lz4hc.

    `mkfs.erofs` reads a directory, in which the files have to have their owners.

    Args:
        tree: The files.
        descriptor: An empty file.
        newest: The newest time in the tree, in nanoseconds since 1970.
        identity: The file system's UUID.
        scratch: An empty directory on a disk with room for all files. They are left there, with owners of
            their own.
        as_root: The start of a command line that runs the rest as root, if only of a user namespace.

    Raises:
        CommandFailed: tar or mkfs.erofs failed.
        FormatError: The tree is impossible.
        ImageError: The tree has files that only root can make, and the user is another.
        ToolMissing: It is not installed.
    """
    program = process.find_tool("mkfs.erofs", package="erofs-utils")
    privileged = sorted(path for path, inode in tree.items() if _is_privileged(inode))
    if privileged and os.geteuid() != 0:
        raise ImageError(
            "this tree as an erofs can only be written by root",
            hint="mkfs.erofs reads files, of which only root can make these; a squashfs needs no root",
            details=tuple("/" + path.decode(errors="backslashreplace") for path in privileged[:10]),
        )
    root = scratch / "root"
    root.mkdir()
    extract = [*as_root, process.find_tool("tar"), "--extract", f"--directory={root}", "--numeric-owner"]
    extract += ["--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"]
    _run(extract, (), tree=_whole(tree, newest))
    argv = [*as_root, program, "--quiet", "-zlz4hc", f"-U{identity}", _place(descriptor), str(root)]
    _run(argv, (descriptor,), environment=_dated(newest))


def write_qcow2(image: int, descriptor: int) -> None:
    """Write a raw image as a qcow2, not compressed, without what is zero.

    Args:
        image: The raw image's file.
        descriptor: An empty file.

    Raises:
        CommandFailed: qemu-img failed.
        ToolMissing: It is not installed.
    """
    program = process.find_tool("qemu-img", package="qemu-utils")
    argv = [program, "convert", "-f", "raw", "-O", "qcow2", _place(image), _place(descriptor)]
    _run(argv, (image, descriptor))


class _Stream:
    """A sink that writes to a file or a pipe."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, content: bytes) -> None:
        self._file.write(content)

    def write_zeros(self, length: int) -> None:
        for start in range(0, length, PIECE):
            self._file.write(memoryview(_ZEROS)[: length - start])


def _run(
    argv: Sequence[str],
    files: Sequence[int],
    *,
    tree: FileTree | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program that inherits files, and reads a tree as a tar on standard input."""
    with (
        tempfile.TemporaryFile() as log,
        process.start(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL if tree is None else subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=files,
        ) as child,
    ):
        if tree is not None:
            assert child.stdin is not None
            try:
                write_layer(tree, {}, _Stream(child.stdin))
                child.stdin.close()
            except BrokenPipeError:
                pass  # it has ended, and its status says how
        status = child.wait()
        if status:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL))
            tail = collections.deque(log.read().decode(errors="replace").splitlines(), process.TAIL_LINES)
            name = Path(argv[0]).name
            raise CommandFailed(
                f"{name} ended with status {status}",
                details=(f"command: {process.pasteable(argv)}", *tail),
            )


def _is_privileged(inode: Inode) -> bool:
    """Return whether a user namespace's root cannot make a file: a device node, or one with attributes."""
    return stat.S_IFMT(inode.mode) in _DEVICES or any(
        name.startswith((b"security.", b"trusted.")) and name != b"security.capability"
        for name in inode.xattrs
    )


def _dated(newest: int) -> dict[str, str]:
    """Return an environment in which programs make file systems of the image's time, not the clock's."""
    # Later times are cut off, so it is rounded up.
    return process.clean_environment({"SOURCE_DATE_EPOCH": str(max(0, -(-newest // _BILLION)))})


def _place(descriptor: int) -> str:
    """Return the path by which a program opens a file that it inherits, and that may have no name."""
    return f"/proc/self/fd/{descriptor}"


def _whole(tree: FileTree, newest: int) -> FileTree:
    """Return the tree with the directories that its paths lead through, which are root's, with mode 0755."""
    whole = {b"": directory(mtime=newest), **tree}
    for path in tree:
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            if not whole.setdefault(parent, directory(mtime=newest)).is_directory:
                raise FormatError(f"{path!r} lies in what is no directory")
    return whole


def _with_attributes(tree: FileTree, prefixes: tuple[bytes, ...]) -> FileTree:
    """Return the tree with those extended attributes alone that have one of the prefixes."""
    changed: dict[int, Inode] = {}
    for inode in tree.values():
        kept = {name: value for name, value in inode.xattrs.items() if name.startswith(prefixes)}
        if kept != inode.xattrs:
            changed[id(inode)] = dataclasses.replace(inode, xattrs=kept)
    return {path: changed.get(id(inode), inode) for path, inode in tree.items()}
