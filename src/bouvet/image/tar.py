"""A tree as the tar stream of an image layer.

Sources: POSIX.1-2008, pax, "pax Interchange Format"; the OCI image specification, layer.md, "Whiteouts"
and "Opaque Whiteout". Extended attributes are `SCHILY.xattr.` records, which container tools share; ACLs
among them keep their user-space form, as mmdebstrap writes them. The bytes depend on the tree alone.
"""

from __future__ import annotations

import stat
import tarfile
from typing import Protocol

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode
from bouvet.layers.merge import OPAQUE, is_whiteout

PIECE = 1 << 20
"""Bytes of content that are held at once."""

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"

_BILLION = 1_000_000_000
_XATTR_RECORD = "SCHILY.xattr."
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Sink(Protocol):
    """Where the stream goes."""

    def write(self, content: bytes) -> None:
        """Append bytes."""
        ...

    def write_zeros(self, length: int) -> None:
        """Append `length` zero bytes, which may be far more than fit into memory."""
        ...


def write_layer(tree: FileTree, lower: FileTree, sink: Sink) -> None:
    """Write a tree as one layer over the layers below.

    Names ascend by component, parents first: the order in which most layers' content is stored, so that
    it is read from start to end. Sockets are left out: tar has no such type, and one without its process
    is of no use. So are removals of what is not there. An extended attribute without a value does not
    survive: in pax, a record without a value stands for none.

    Args:
        tree: The layer, with overlayfs' whiteouts. Missing parents stay missing.
        lower: What the layers below make together.
        sink: Gets the stream, its end marker included.

    Raises:
        FormatError: The tree is impossible, or a layer cannot hold it; the message names the path.
        LayerCorrupt: A source of the content is not what it was.
    """
    first_names: dict[int, bytes] = {}
    for path in sorted(tree, key=lambda path: path.split(b"/")):
        inode = tree[path]
        _check_path(path, inode)
        if is_whiteout(inode):
            if path in lower:
                directory, slash, name = path.rpartition(b"/")
                sink.write(_marker(directory + slash + WHITEOUT_PREFIX + name, inode))
        elif inode.is_directory:
            sink.write(_header(path, inode, tarfile.DIRTYPE))
            if inode.xattrs.get(OPAQUE) == b"y" and path in lower:
                sink.write(_marker(path + b"/" + OPAQUE_MARKER if path else OPAQUE_MARKER, inode))
        elif not stat.S_ISSOCK(inode.mode):
            first = first_names.setdefault(id(inode), path)
            if first != path:
                sink.write(_header(path, inode, tarfile.LNKTYPE, link=first))
                continue
            sink.write(_header(path, inode, _TYPES[stat.S_IFMT(inode.mode)], link=inode.target))
            if inode.is_regular:
                _write_content(path, inode, sink)
    sink.write(bytes(2 * tarfile.BLOCKSIZE))


def _check_path(path: bytes, inode: Inode) -> None:
    """Refuse names that mean something else in a layer, or lead out of it."""
    if not path:
        if not inode.is_directory:
            raise FormatError("the root is not a directory")
        return
    for name in path.split(b"/"):
        if name in (b"", b".", b"..") or b"\0" in name:
            raise FormatError(
                f"{path!r} is no path that a layer can hold",
                hint="paths are relative, and none of their names is empty, . or ..",
            )
        if name.startswith(WHITEOUT_PREFIX):
            raise FormatError(
                f"{path!r}: in a layer, a name that begins with .wh. is the removal of another",
                hint="rename the file",
            )


def _header(path: bytes, inode: Inode, kind: bytes, *, link: bytes = b"") -> bytes:
    """Return an entry's header, with an extended header before it where that is needed."""
    entry = tarfile.TarInfo(_text(path) or ".")
    entry.type = kind
    entry.linkname = _text(link)
    entry.mode = stat.S_IMODE(inode.mode)
    entry.uid, entry.gid = inode.uid, inode.gid
    entry.mtime = inode.mtime // _BILLION
    if kind == tarfile.REGTYPE:
        entry.size = inode.size
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        entry.devmajor, entry.devminor = inode.device
    records = {}
    if inode.mtime % _BILLION:
        # The sign stands for the whole number, the fraction included.
        seconds, nanoseconds = divmod(abs(inode.mtime), _BILLION)
        records["mtime"] = f"{'-' if inode.mtime < 0 else ''}{seconds}.{nanoseconds:09}"
    for name, value in sorted(inode.xattrs.items()):
        if name == OPAQUE:
            continue
        if b"=" in name or b"\0" in name or not name.isascii():
            raise FormatError(f"{path!r}: a layer cannot hold an extended attribute named {name!r}")
        records[_XATTR_RECORD + name.decode("ascii")] = _text(value)
    entry.pax_headers = records
    try:
        return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    except ValueError as error:  # numbers of a device have no extended header
        raise FormatError(f"{path!r}: a layer cannot hold it: {error}") from error


def _marker(path: bytes, inode: Inode) -> bytes:
    """Return the empty file that stands for a removal."""
    return _header(path, Inode(stat.S_IFREG, mtime=inode.mtime), tarfile.REGTYPE)


def _text(content: bytes) -> str:
    """Return bytes as tarfile wants them; what is no UTF-8 makes it write `hdrcharset=BINARY`."""
    return content.decode("utf-8", "surrogateescape")


def _write_content(path: bytes, inode: Inode, sink: Sink) -> None:
    """Write a file's bytes, holes as zeros, and the padding."""
    position = 0
    for segment in inode.segments:
        end = segment.file_offset + segment.length
        if segment.file_offset < position or end > inode.size:
            raise FormatError(f"{path!r}: its content overlaps itself or passes its end")
        sink.write_zeros(segment.file_offset - position)
        for start in range(0, segment.length, PIECE):
            length = min(PIECE, segment.length - start)
            sink.write(segment.source.read(segment.source_offset + start, length))
        position = end
    sink.write_zeros(inode.size - position + -inode.size % tarfile.BLOCKSIZE)
