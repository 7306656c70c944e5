"""The process that writes an overlay's upper directory as a tar: `python -m bouvet.layers.capturing DIR`.

It runs in `namespaces`, where the owners are those that the command saw. The tar (POSIX.1-2001 pax) comes
on standard output, names in order. Sockets are left out: they mean nothing without their process.
"""

# Names are bytes, which pathlib does not take.
# ruff: noqa: PTH115, PTH118, PTH123, PTH208

from __future__ import annotations

import os
import stat
import sys
import tarfile
from collections.abc import Iterator

from bouvet import process

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_BUFFER = 1 << 20


def main(directory: bytes) -> None:
    """Write the tar."""
    process.end_on_sigterm()
    linked: dict[tuple[int, int], str] = {}
    with tarfile.open(
        fileobj=sys.stdout.buffer,
        mode="w|",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        bufsize=_BUFFER,
    ) as tar:
        for path, status in _walk(directory, b""):
            member = _member(directory, path, status)
            if member is None:
                continue
            key = (status.st_dev, status.st_ino)
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                first = linked.setdefault(key, member.name)
                if first != member.name:
                    member.type, member.linkname, member.size = tarfile.LNKTYPE, first, 0
            if member.isreg():
                with open(os.path.join(directory, path), "rb", buffering=0) as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)


def _walk(directory: bytes, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the paths below a directory, and itself, in order."""
    pending = [path]
    while pending:
        path = pending.pop()
        status = os.lstat(os.path.join(directory, path))
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(os.path.join(directory, path)), reverse=True)
            pending += [os.path.join(path, name) for name in names]


def _member(directory: bytes, path: bytes, status: os.stat_result) -> tarfile.TarInfo | None:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    place = os.path.join(directory, path)
    member = tarfile.TarInfo(_text(path) or ".")
    member.type = kind
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    member.size = status.st_size if kind == tarfile.REGTYPE else 0
    if kind == tarfile.SYMTYPE:
        member.linkname = _text(os.readlink(place))
    member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
    headers = {"mtime": f"{seconds}.{nanoseconds:09}"}
    for name in sorted(os.listxattr(place, follow_symlinks=False)):
        value = os.getxattr(os.fsencode(place), name, follow_symlinks=False)
        headers[f"SCHILY.xattr.{name}"] = _text(value)
    member.pax_headers = headers
    return member


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
