"""A layer of a container image as a layer of ours.

Source: the OCI image specification 1.1, layer.md, "Applying Changesets". Entries are applied to the tree
that the layers below make, as container engines apply them to a directory: a path that leads through a
symbolic link goes where the link leads inside the image. No entry is ever a file of the host.

    .wh.NAME        removes NAME of the layers below
    .wh..wh..opq    hides all that the layers below have in its directory
    other .wh..wh.  aufs' own files: left out

Both concern the layers below only, wherever they stand among the entries.
"""

from __future__ import annotations

import io
import stat
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.errors import FormatError, LayerError
from bouvet.formats.tree import Inode, directory
from bouvet.layers.merge import OPAQUE, is_whiteout
from bouvet.layers.oci_paths import LayeredPaths
from bouvet.layers.oci_stream import open_layer
from bouvet.layers.writer import clean_path, tar_inode

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.oci_steps import OciInputs

MAXIMUM_ENTRIES = 1_000_000
"""Entries of a layer."""

MAXIMUM_HEADER = 1 << 20
"""Bytes of an entry's extended header: names, numbers and extended attributes."""

MAXIMUM_SPARSE = 64 << 30
"""Bytes of all sparse files of a layer: they cost time, however little the layer has of them."""

_PREFIX = b".wh."
_OPAQUE_MARKER = b".wh..wh..opq"
_RESERVED = b".wh..wh."
_OVERLAY_ATTRIBUTES = (b"trusted.overlay.", b"user.overlay.")
_WHITEOUT = Inode(stat.S_IFCHR, device=(0, 0))
# What Python's tarfile raises for damaged headers beside its own errors.
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, IndexError, struct.error, RecursionError)


class _Member(tarfile.TarInfo):
    """A header that does not let an image choose how much memory it takes."""

    def _check_extension(self) -> None:
        if not 0 <= self.size <= MAXIMUM_HEADER:
            raise FormatError(f"the layer has an extended header of {self.size} bytes")

    def _proc_pax(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_extension()
        return super()._proc_pax(tar)  # type: ignore[misc, no-any-return]  # a documented hook it is not

    def _proc_gnulong(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_extension()
        return super()._proc_gnulong(tar)  # type: ignore[misc, no-any-return]


def make(inputs: OciInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the layer's entries.

    Raises:
        FormatError: It is damaged, hostile, or not what its digests say.
        LayerError: Its file cannot be read any more.
    """
    try:
        with open_layer(
            Path(inputs.path), inputs.offset, inputs.size, inputs.digest, inputs.diff_id
        ) as stream:
            apply_layer(stream, workshop.lower, layer)
    except OSError as error:
        raise LayerError(
            f"cannot read the image's layer: {inputs.path}: {error.strerror or error}"
        ) from error


def apply_layer(stream: io.RawIOBase, lower: FileTree, layer: LayerWriter) -> None:
    """Add the entries of a layer's tar to a new layer of ours.

    Args:
        stream: The uncompressed tar; it may be left before its end.
        lower: The merged tree of the layers below.
        layer: Where they go.

    Raises:
        FormatError: It is damaged, or an entry cannot be contained.
    """
    applying = _Applying(lower, layer)
    try:
        with tarfile.open(
            fileobj=stream,
            mode="r|",
            bufsize=1 << 18,
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=_Member,
        ) as tar:
            for count, member in enumerate(tar):
                if count >= MAXIMUM_ENTRIES:
                    raise FormatError(f"the layer has more than {MAXIMUM_ENTRIES} entries")
                applying.add(tar, member)
                tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
    except _DAMAGE as error:
        raise FormatError(f"the layer's tar is damaged: {error}") from error
    applying.finish()


class _Applying:
    """The entries of one layer, as they come."""

    def __init__(self, lower: FileTree, layer: LayerWriter) -> None:
        self._lower = lower
        self._layer = layer
        self._paths = LayeredPaths(lower, layer.tree)
        self._sparse = 0

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Take the next entry."""
        named = clean_path(member.name.encode("utf-8", "surrogateescape"))
        parent, _, name = named.rpartition(b"/")
        directory_path = self._paths.directory(parent)
        path = directory_path + b"/" + name if directory_path else name
        if name.startswith(_PREFIX):
            self._add_marker(directory_path, name)
        elif not name:
            self._add_root(member)
        elif member.islnk():
            self._put(path, self._linked(member))
        else:
            inode = tar_inode(member)
            for attribute in [key for key in inode.xattrs if key.startswith(_OVERLAY_ATTRIBUTES)]:
                del inode.xattrs[attribute]
            if is_whiteout(inode):
                raise FormatError(f"the layer has the device 0:0 at {path!r}, which stands for a removal")
            if inode.is_regular:
                self._count_sparse(member)
                content = tar.extractfile(member)
                assert content is not None
                self._layer.add_content(inode, content, member.size)
            self._put(path, inode)

    def finish(self) -> None:
        """Settle the removals, which do not concern the layer's own entries."""
        tree = self._layer.tree
        kept = set(tree) | {parent for path in tree for parent in _parents(path)}
        for path in self._paths.removed:
            if any(above in tree and not tree[above].is_directory for above in _parents(path)):
                continue  # a file took the place of what it was in
            if path not in kept:
                tree[path] = replace(_WHITEOUT)
                continue
            inode = tree.get(path)
            if inode is None:  # entries below it are there, and it is not
                inode = tree[path] = directory()
            if inode.is_directory:
                inode.xattrs[OPAQUE] = b"y"

    def _add_root(self, member: tarfile.TarInfo) -> None:
        if not member.isdir():
            raise FormatError("the layer's root is not a directory")
        self._put(b"", tar_inode(member))

    def _add_marker(self, parent: bytes, name: bytes) -> None:
        if name == _OPAQUE_MARKER:
            self._paths.hide(parent)
            return
        if name.startswith(_RESERVED):
            return
        removed = name.removeprefix(_PREFIX)
        if removed in {b"", b".", b".."}:
            raise FormatError(f"the layer removes {removed!r}, which is no name")
        self._paths.remove(parent + b"/" + removed if parent else removed)

    def _linked(self, member: tarfile.TarInfo) -> Inode:
        """Return what a hard link leads to: an entry of this layer, or a copy of one below."""
        target = clean_path(member.linkname.encode("utf-8", "surrogateescape"))
        parent, _, name = target.rpartition(b"/")
        path = self._paths.directory(parent)
        path = path + b"/" + name if path else name
        inode = self._layer.tree.get(path)
        if inode is None:
            below = self._paths.entry(path)
            if below is not None and not below.is_directory:
                self._layer.add(path, below)
                inode = self._layer.tree[path]
        if inode is None or inode.is_directory:
            raise FormatError(f"the layer's entry {member.name!r} is a link to {target!r}, which is no file")
        return inode

    def _put(self, path: bytes, inode: Inode) -> None:
        """Put an entry into its place; what it replaces goes with all that is below it."""
        tree = self._layer.tree
        old = tree.get(path)
        if old is inode:
            return
        if not inode.is_directory and self._paths.filled(path):
            for below in [other for other in tree if other.startswith(path + b"/")]:
                del tree[below]
        if inode.is_directory and old is not None and old.is_directory and OPAQUE in old.xattrs:
            inode.xattrs[OPAQUE] = b"y"
        tree[path] = inode
        self._paths.note(path)

    def _count_sparse(self, member: tarfile.TarInfo) -> None:
        if member.issparse():
            self._sparse += member.size
            if member.size < 0 or self._sparse > MAXIMUM_SPARSE:
                raise FormatError("the layer has sparse files of too many bytes")


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]
