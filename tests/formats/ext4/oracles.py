"""What the ext4 writer and reader are measured by: e2fsck, the kernel, and comparisons of whole trees.

Each of these is itself tested to fail, in `test_oracles.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bouvet.formats.ext4 import Ext4Options, Ext4Plan, Ext4Reader, plan_filesystem, write_filesystem
from bouvet.formats.tree import FileTree, Inode, directory

ENVIRONMENT = {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
TIMEOUT = 120
CLEAN_FSCK = re.compile(
    rb"Pass 1: Checking inodes, blocks, and sizes\n"
    rb"Pass 2: Checking directory structure\n"
    rb"Pass 3: Checking directory connectivity\n"
    rb"Pass 4: Checking reference counts\n"
    rb"Pass 5: Checking group summary information\n"
    rb"[^\n]*: \d+/\d+ files \(\d+\.\d+% non-contiguous\), \d+/\d+ blocks\n"
)

Summary = tuple[object, ...]


class OracleError(AssertionError):
    """An oracle does not accept an image."""


def run(*argv: str | Path, ok: Sequence[int] = (0,)) -> bytes:
    """Run a program; return its standard output."""
    done = subprocess.run(
        argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
    )
    if done.returncode not in ok:
        raise OracleError(f"{argv} ended with {done.returncode}:\n{(done.stdout + done.stderr).decode()}")
    return done.stdout


def make_image(path: Path, tree: FileTree, options: Ext4Options | None = None) -> Ext4Plan:
    """Write a file system into a new file."""
    plan = plan_filesystem(tree, options or Ext4Options())
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_filesystem(plan, descriptor)
    finally:
        os.close(descriptor)
    assert path.stat().st_size == plan.size
    return plan


def check_fsck(image: Path) -> None:
    """Fail unless e2fsck finds nothing to say about an image."""
    output = run("e2fsck", "-fn", image)
    if not CLEAN_FSCK.fullmatch(output):
        raise OracleError(f"e2fsck complains:\n{output.decode(errors='replace')}")


def check_tree(expected: dict[bytes, Summary], found: dict[bytes, Summary]) -> None:
    """Fail unless two summaries are equal, naming the first path that differs."""
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            raise OracleError(f"{path!r}: expected {expected.get(path)}, found {found.get(path)}")


def check_reader(image: Path, tree: FileTree) -> None:
    """Fail unless our reader finds in an image what was written."""
    with Ext4Reader(image) as reader:
        check_tree(summarize(with_additions(tree)), summarize(reader.tree()))


def with_additions(tree: FileTree) -> FileTree:
    """Return a tree with what the writer adds: the root, missing directories, lost+found."""
    full = dict(tree)
    for path in tree:
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            full.setdefault(parent, directory())
    full.setdefault(b"", directory())
    full.setdefault(b"lost+found", directory(0o700))
    return full


def summarize(tree: FileTree) -> dict[bytes, Summary]:
    """Return all that a file system keeps of each path, in comparable form."""
    first: dict[int, bytes] = {}
    for path in sorted(tree):
        first.setdefault(id(tree[path]), path)
    return {path: (first[id(inode)], *_summary(inode)) for path, inode in tree.items()}


def _summary(inode: Inode) -> Summary:
    kind = stat.S_IFMT(inode.mode)
    return (
        oct(inode.mode),
        inode.uid,
        inode.gid,
        inode.mtime,
        inode.size if kind == stat.S_IFREG else 0,
        _extended(inode) if kind == stat.S_IFREG else [],
        inode.target,
        inode.device if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0),
        sorted(inode.xattrs.items()),
    )


def _extended(inode: Inode) -> list[tuple[int, bytes]]:
    """Return a file's content by place, neighbouring runs as one, so that holes show."""
    runs: list[tuple[int, bytes]] = []
    for segment in inode.segments:
        content = segment.source.read(segment.source_offset, segment.length)
        if runs and runs[-1][0] + len(runs[-1][1]) == segment.file_offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + content)
        else:
            runs.append((segment.file_offset, content))
    return runs


@contextlib.contextmanager
def mounted(image: Path, *, read_only: bool = True) -> Iterator[Path]:
    """Mount an image by the kernel; it is unmounted at the end, whatever happens."""
    point = image.with_suffix(".mnt")
    point.mkdir()
    run("mount", "-t", "ext4", "-o", "loop," + ("ro" if read_only else "rw"), image, point)
    try:
        yield point
    finally:
        run("umount", point)
        point.rmdir()


def kernel_tree(point: Path) -> dict[bytes, Summary]:
    """Return what the kernel says of a mounted file system, summarized as by `summarize`.

    Directories are opened one below the other, because a path may be longer than the kernel takes.
    """
    found: dict[bytes, Summary] = {}
    first: dict[int, bytes] = {}
    links: dict[int, list[bytes]] = {}
    counts: dict[int, int] = {}

    def visit(parent: int, name: bytes, path: bytes) -> None:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        found[path] = _kernel_summary(parent, name, info)
        links.setdefault(info.st_ino, []).append(path)
        counts[info.st_ino] = info.st_nlink
        if not stat.S_ISDIR(info.st_mode):
            return
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            children = sorted(os.fsencode(child.name) for child in os.scandir(inner))
            subdirectories = 0
            for child in children:
                visit(inner, child, path + b"/" + child if path else child)
                subdirectories += stat.S_ISDIR(os.stat(child, dir_fd=inner, follow_symlinks=False).st_mode)
        finally:
            os.close(inner)
        if info.st_nlink not in (2 + subdirectories, 1):
            raise OracleError(f"{path!r} has {info.st_nlink} links and {subdirectories} subdirectories")

    top = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        visit(top, b".", b"")
    finally:
        os.close(top)
    for number, paths in links.items():
        if not stat.S_ISDIR(int(str(found[paths[0]][0]), 8)) and counts[number] != len(paths):
            raise OracleError(f"{paths} have {counts[number]} links")
        first[number] = min(paths)
    by_path = {path: number for number, paths in links.items() for path in paths}
    return {path: (first[by_path[path]], *summary) for path, summary in found.items()}


def _kernel_summary(parent: int, name: bytes, info: os.stat_result) -> Summary:
    kind = stat.S_IFMT(info.st_mode)
    # There is no *at() form of the attribute calls; /proc leads to the file by its directory.
    path = b"/proc/self/fd/%d/%s" % (parent, name)
    xattrs = [
        (os.fsencode(attribute), os.getxattr(path, attribute, follow_symlinks=False))
        for attribute in os.listxattr(path, follow_symlinks=False)
    ]
    return (
        oct(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        info.st_size if kind == stat.S_IFREG else 0,
        _kernel_content(parent, name, info.st_size) if kind == stat.S_IFREG else [],
        os.readlink(name, dir_fd=parent) if kind == stat.S_IFLNK else b"",
        (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0),
        sorted(xattrs),
    )


def _kernel_content(parent: int, name: bytes, size: int) -> list[tuple[int, bytes]]:
    """Return a file's content by place, holes left out."""
    runs: list[tuple[int, bytes]] = []
    descriptor = os.open(name, os.O_RDONLY, dir_fd=parent)
    try:
        end = 0
        while end < size:
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            runs.append((start, os.pread(descriptor, end - start, start)))
    finally:
        os.close(descriptor)
    return runs


def check_kernel(image: Path, tree: FileTree) -> None:
    """Fail unless the kernel finds in an image what was written."""
    with mounted(image) as point:
        check_tree(summarize(with_additions(tree)), kernel_tree(point))
