"""Components of a Rust toolchain: archives of the "rust-installer", and rustup's records about them.

An archive has one directory at its top, and in it:

    rust-installer-version       3
    components                   the names of the components in this archive, one a line
    COMPONENT/manifest.in        what is installed: lines `file:PATH` or `dir:PATH`
    COMPONENT/PATH               the files themselves

A toolchain has, beside the components' files, in lib/rustlib:

    rust-installer-version       3
    components                   the names of the installed components, one a line
    manifest-COMPONENT           the lines of its manifest.in
    multirust-channel-manifest.toml    the channel's manifest
    multirust-config.toml        packages and targets of the installed components

Source: rust-installer's README (the archives), and rustup's own installations (version 12 of its
metadata). Manual pages and documentation are left out, and are not in the records either, so that rustup
can remove or update the component; licences stay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers.tarballs import unpack

if TYPE_CHECKING:
    from bouvet.layers.placing import Placing
    from bouvet.layers.rust_channel import Channel, Component
    from bouvet.layers.writer import LayerWriter

INSTALLER_VERSION = b"3"
"""The version of rust-installer's archives and records that is understood here, as by rustup."""

_RECORDS = b"lib/rustlib/"
_LEFT_OUT = re.compile(rb"share/(man/.*|doc/(?!.*(LICEN[CS]E|COPYRIGHT(?!.*\.html)|licenses/)).*)")


class Toolchain:
    """A toolchain in the making.

    Args:
        prefix: Its directory in the layer, with a slash at the end.
        layer: The layer.
        placing: Adds to the same layer.
    """

    def __init__(self, prefix: bytes, layer: LayerWriter, placing: Placing) -> None:
        self._prefix = prefix
        self._layer = layer
        self._placing = placing
        self._records: dict[Component, list[bytes]] = {}

    def add(self, component: Component, archive: Path) -> None:
        """Add the files of a component.

        Raises:
            LayerError: The archive is not one of rust-installer, holds another component, lacks files of
                its own list, or has files of another component.
        """
        tops = {component.name.encode(), component.package.encode()}
        about: dict[bytes, bytes] = {}
        placed: set[bytes] = set()
        for file in unpack(archive):
            top, _, path = file.path.partition(b"/")
            if not path or (top in tops and path == b"manifest.in"):
                about[file.path] = file.content
            elif top in tops and not self._is_left_out(component, path):
                if self._prefix + path in self._layer.tree:
                    raise LayerError(f"{component.name} has {path.decode(errors='replace')}, as another has")
                mode = 0o755 if file.executable else 0o644
                self._placing.file(self._prefix + path, file.content, mode, mtime=file.mtime)
                placed.add(path)
        if about.get(b"rust-installer-version", b"").strip() != INSTALLER_VERSION:
            raise LayerError(f"{archive.name} is no archive of rust-installer, version 3")
        inside = tops & set(about.get(b"components", b"").split())
        manifests = [about[top + b"/manifest.in"] for top in inside if top + b"/manifest.in" in about]
        if len(manifests) != 1:
            raise LayerError(f"{archive.name} does not hold the component {component.name}")
        self._settle(component, manifests[0], placed)

    def finish(self, channel: Channel) -> None:
        """Write the records."""
        components = sorted(self._records, key=lambda component: component.name)
        records = {
            b"rust-installer-version": INSTALLER_VERSION,
            b"components": b"".join(each.name.encode() + b"\n" for each in components),
            b"multirust-channel-manifest.toml": channel.content,
            b"multirust-config.toml": _configuration(components).encode(),
        }
        for component, lines in self._records.items():
            records[b"manifest-" + component.name.encode()] = b"".join(line + b"\n" for line in lines)
        for name, content in records.items():
            self._placing.file(self._prefix + _RECORDS + name, content)

    def _settle(self, component: Component, manifest: bytes, placed: set[bytes]) -> None:
        """Hold the archive's list of files and its files against each other."""
        lines = [line for line in manifest.split(b"\n") if line]
        kept, covered = [], set()
        for line in lines:
            kind, _, path = line.partition(b":")
            if self._is_left_out(component, path):
                continue
            inside = {path} if kind == b"file" else {each for each in placed if each.startswith(path + b"/")}
            if kind not in {b"file", b"dir"} or not inside or not inside <= placed:
                raise LayerError(f"{component.name} lacks {line.decode(errors='replace')!r} of its list")
            kept.append(line)
            covered |= inside
        for path in placed - covered:
            del self._layer.tree[self._prefix + path]
        self._records[component] = kept

    def _is_left_out(self, component: Component, path: bytes) -> bool:
        # Documentation that was asked for by its component's name stays.
        return component.package != "rust-docs" and _LEFT_OUT.fullmatch(path) is not None


def _configuration(components: Sequence[Component]) -> str:
    """Return rustup's record of packages and targets, in the form that its own serializer writes."""
    tables = [
        f'[[components]]\npkg = "{each.package}"\ntarget = "{each.target or "*"}"\nis_extension = false\n'
        for each in components
    ]
    return "\n".join(['config_version = "1"\n', *tables])
