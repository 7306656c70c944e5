"""The files layer: the user's own files and directories."""

from __future__ import annotations

import hashlib
import io
import stat
from typing import IO, TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.formats.tree import Inode, directory, regular_file
from bouvet.layers.accounts import Accounts, Ids
from bouvet.layers.host_files import changed
from bouvet.layers.paths import real_directory, real_path
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from bouvet.layers.host_files import HostEntry
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import FileInputs, FilesInputs


def make(inputs: FilesInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the files.

    Raises:
        LayerError: An owner is unknown, a path leads through a file or would replace a directory, or a
            file was changed since the plan was made.
    """
    accounts = Accounts(workshop.lower)
    makers = _Files(workshop, layer)
    for file in inputs.files:
        makers.add(file, accounts.owner(file.owner, file.group))


class _Files:
    """Adds files over the layers below."""

    def __init__(self, workshop: Workshop, layer: LayerWriter) -> None:
        self._lower = workshop.lower
        self._sources = workshop.sources
        self._layer = layer
        self._mtime = newest_time(workshop.lower)
        self._placing = Placing(layer, workshop.lower, mtime=self._mtime)

    def add(self, file: FileInputs, owner: Ids) -> None:
        """Add what one entry of the spec names."""
        path = file.path.strip("/").encode()
        if file.content is None:
            place = real_directory(self._lower, path)
            self._placing.directory(place.rpartition(b"/")[0])
            mode = 0o755 if file.mode is None else file.mode
            if place:
                self._layer.add(place, directory(mode, uid=owner.uid, gid=owner.gid, mtime=self._mtime))
            return
        for entry in self._sources[file.content].entries:
            place = path + b"/" + entry.path if entry.path else path
            if stat.S_ISDIR(entry.mode):
                self._add_directory(place, owner)
            else:
                self._add_entry(place, entry, owner, file.mode)

    def _add_directory(self, path: bytes, owner: Ids) -> None:
        """Add a directory with its owner, unless it is there: then it stays as it is."""
        place = real_directory(self._lower, path)
        if place and place not in self._lower and place not in self._layer.tree:
            self._placing.directory(place.rpartition(b"/")[0])
            self._layer.add(place, directory(uid=owner.uid, gid=owner.gid, mtime=self._mtime))

    def _add_entry(self, path: bytes, entry: HostEntry, owner: Ids, mode: int | None) -> None:
        place = real_path(self._lower, path)
        below = self._lower.get(place)
        if not place or (below is not None and below.is_directory):
            raise LayerError(
                f"/{path.decode(errors='replace')} is a directory in the image, and a file in the spec",
                hint="name the file's own path: a file is not put into a directory by naming that",
            )
        self._placing.directory(place.rpartition(b"/")[0])
        if stat.S_ISLNK(entry.mode):
            inode = Inode(entry.mode, owner.uid, owner.gid, self._mtime, target=entry.target)
            self._layer.add(place, inode)
            return
        bits = stat.S_IMODE(entry.mode) if mode is None else mode
        if isinstance(entry.content, bytes):
            content = regular_file(entry.content, bits, uid=owner.uid, gid=owner.gid, mtime=self._mtime)
            self._layer.add(place, content)
            return
        inode = Inode(stat.S_IFREG | bits, owner.uid, owner.gid, self._mtime)
        try:
            with entry.content.open("rb") as file:
                reading = _Hashed(file)
                self._layer.add_content(inode, io.BufferedReader(reading), entry.size)
                same = reading.digest() == entry.sha256 and not file.read(1)
        except (OSError, EOFError):
            same = False
        if not same:
            raise changed(entry)
        self._layer.tree[place] = inode


class _Hashed(io.RawIOBase):
    """A file that is read through a digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        piece = self._file.read(len(view))
        view[: len(piece)] = piece
        self._digest.update(piece)
        return len(piece)

    def digest(self) -> bytes:
        """Return the digest of what was read."""
        return self._digest.digest()
