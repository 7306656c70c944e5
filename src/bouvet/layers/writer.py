"""A layer in the making."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode
from bouvet.layers import index
from bouvet.layers.blob import BlobWriter
from bouvet.plan.provenance import Provenance

BLOB = "blob"
INDEX = "index.json"

Keep = Callable[[bytes, Inode], bool]

_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_XATTR = "SCHILY.xattr."
_MAXIMUM_ID = (1 << 32) - 1


class LayerWriter:
    """Takes a layer's entries and writes their content to its blob.

    Attributes:
        tree: What was added so far. A maker may change metadata in it, or delete names from it, until
            it returns.
        provenance: What the layer is made from; a maker that chooses says it.
    """

    def __init__(self, directory: Path) -> None:
        self.tree: FileTree = {}
        self.provenance = Provenance()
        self._directory = directory
        self._blob = BlobWriter(directory / BLOB)
        self._added: dict[int, tuple[Inode, Inode]] = {}

    def add(self, path: bytes, inode: Inode) -> None:
        """Add an entry; the same object under another path is a hard link. An earlier one is replaced.

        Raises:
            FormatError: The path is not a plain relative one.
        """
        check_path(path)
        known = self._added.get(id(inode))
        if known is None:
            own = inode
            if inode.segments:
                own = Inode(
                    inode.mode,
                    inode.uid,
                    inode.gid,
                    inode.mtime,
                    inode.size,
                    self._blob.add_inode(inode),
                    xattrs=dict(inode.xattrs),
                )
            # Both are kept, so that neither's id is given to another object.
            known = self._added[id(inode)] = (inode, own)
        self.tree[path] = known[1]

    def add_tar(self, stream: IO[bytes], keep: Keep | None = None) -> None:
        """Add a tar stream's entries (POSIX.1-2001 pax or GNU, extended attributes as `SCHILY.xattr`).

        Args:
            stream: The uncompressed stream; read to its end.
            keep: Says of each entry whether it belongs to the layer; it may change the inode.

        Raises:
            FormatError: The stream is damaged, or an entry's path or link leads out of the tree.
        """
        try:
            with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
                for member in tar:
                    self._add_member(tar, member, keep)
                    tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
        except (tarfile.TarError, EOFError) as error:
            raise FormatError(f"the tar stream is damaged: {error}") from error

    def take(self, directory: Path) -> None:
        """Take what another layer's writer committed, in place of this one's, to which nothing was added.

        Args:
            directory: That writer's, on the same file system.

        Raises:
            FormatError: It is no layer.
        """
        blob = directory / BLOB
        try:
            document = index.parse((directory / INDEX).read_bytes())
            size, checksums = index.decode_blob(document)
            tree = index.decode_tree(document, self._blob)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"the index of a layer is damaged: {error}") from error
        for path, inode in tree.items():
            check_path(path)
            if any(run.source_offset + run.length > size for run in inode.segments):
                raise FormatError(f"the content of {path!r} lies outside of its layer")
        if blob.stat().st_size != size:
            raise FormatError("a layer's content has not the size that its index says")
        self._blob.take(blob, size, checksums)
        self.tree = tree

    def add_content(self, inode: Inode, stream: IO[bytes], size: int) -> None:
        """Give a regular file that is to be put into the tree its content of so many bytes.

        Raises:
            EOFError: The stream ends before.
        """
        inode.size = size
        inode.segments = self._blob.add_stream(stream, size)

    def commit(self) -> bytes:
        """Finish the blob and return the index."""
        self._blob.finish()
        content = index.encode(self.tree, self._blob.size, self._blob.checksums)
        (self._directory / INDEX).write_bytes(content)
        return content

    def close(self) -> None:
        """Close the blob's file as it is."""
        self._blob.close()

    def _add_member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, keep: Keep | None) -> None:
        path = clean_path(_bytes(member.name))
        if member.islnk():
            self._add_link(path, clean_path(_bytes(member.linkname)), keep)
            return
        inode = tar_inode(member)
        if keep is not None and not keep(path, inode):
            return
        if inode.is_regular:
            content = tar.extractfile(member)
            assert content is not None
            self.add_content(inode, content, member.size)
        self.tree[path] = inode

    def _add_link(self, path: bytes, target: bytes, keep: Keep | None) -> None:
        inode = self.tree.get(target)
        if inode is None:
            raise FormatError(f"the tar entry {path!r} is a link to {target!r}, which is not in the layer")
        if keep is None or keep(path, inode):
            self.tree[path] = inode


def tar_inode(member: tarfile.TarInfo) -> Inode:
    """Return the inode of a tar's entry that is no hard link, without its content.

    Raises:
        FormatError: It is of an unknown type, or a number of it is impossible.
    """
    if member.type not in _TYPES:
        raise FormatError(f"the tar entry {member.name!r} has the unknown type {member.type!r}")
    if not (0 <= member.uid <= _MAXIMUM_ID and 0 <= member.gid <= _MAXIMUM_ID):
        raise FormatError(f"the tar entry {member.name!r} has an impossible owner")
    if member.size < 0:
        raise FormatError(f"the tar entry {member.name!r} has a size below zero")
    return Inode(
        _TYPES[member.type] | stat.S_IMODE(member.mode),
        member.uid,
        member.gid,
        _nanoseconds(member),
        target=_bytes(member.linkname) if member.issym() else b"",
        device=(member.devmajor, member.devminor) if member.ischr() or member.isblk() else (0, 0),
        xattrs={
            _bytes(name.removeprefix(_XATTR)): _bytes(value)
            for name, value in member.pax_headers.items()
            if name.startswith(_XATTR)
        },
    )


def check_path(path: bytes) -> None:
    """Refuse a path that is not relative, normal, and free of `..`.

    Raises:
        FormatError: It is not.
    """
    if path and (b"\0" in path or any(part in {b"", b".", b".."} for part in path.split(b"/"))):
        raise FormatError(f"{path!r} is no plain path of a layer")


def clean_path(path: bytes) -> bytes:
    """Return a tar entry's path without leading slashes and dots.

    Raises:
        FormatError: It leads out of the tree.
    """
    cleaned = b"/".join(part for part in path.split(b"/") if part not in {b"", b"."})
    check_path(cleaned)
    return cleaned


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _nanoseconds(member: tarfile.TarInfo) -> int:
    """Return the modification time without the rounding of a floating-point number."""
    text = member.pax_headers.get("mtime", "")
    seconds, _, fraction = text.partition(".")
    if not fraction or seconds.startswith("-") or not (seconds + fraction).isdigit():
        return round(member.mtime * 1_000_000_000)
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
