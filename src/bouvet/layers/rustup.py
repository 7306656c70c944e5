"""The Rust layer from a distribution server: rustup, and a toolchain laid out as rustup does it.

    /usr/local/cargo/bin/rustup                   rustup's binary (CARGO_HOME)
    /usr/local/cargo/bin/{rustc,cargo,...}        links to it: it is a proxy for the tool it is called as
    /usr/local/rustup/settings.toml               the default toolchain (RUSTUP_HOME)
    /usr/local/rustup/update-hashes/TOOLCHAIN     the first 20 digits of the manifest's digest
    /usr/local/rustup/toolchains/TOOLCHAIN/       its components' files, and in lib/rustlib what rustup
                                                  knows about them (`rust_components`)

No code of the target runs: components are archives with a list of their files. So it works for another
architecture than the host's, and `rustup` in the guest can update, add and remove components.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

from bouvet.download import fetch, published_sha256
from bouvet.errors import FormatError, LayerError
from bouvet.formats import elf
from bouvet.layers.kept_downloads import Published, obtain
from bouvet.layers.pins import check, demanded, pinned
from bouvet.layers.placing import Placing
from bouvet.layers.rust_channel import (
    CHANNEL,
    OFFICIAL_SERVER,
    PROFILE,
    TARGETS,
    Channel,
    read_channel,
    read_locked_channel,
)
from bouvet.layers.rust_components import Toolchain
from bouvet.plan.provenance import SHA256, Artifact, Provenance

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import RustupInputs

PROXIES = (
    b"cargo", b"cargo-clippy", b"cargo-fmt", b"cargo-miri", b"clippy-driver", b"rls", b"rust-analyzer",
    b"rust-gdb", b"rust-gdbgui", b"rust-lldb", b"rustc", b"rustdoc", b"rustfmt",
)  # fmt: skip
"""What rustup can be called as: the tools of all components, whether they are installed or not."""

RUSTUP = "rustup-init"
"""What rustup's binary is called, on the server and in a lock."""

LARGEST_ARCHIVE = 1 << 30
"""Bytes that a component's archive, or rustup's binary, may have."""

_CARGO_BIN = b"usr/local/cargo/bin/"
_RUSTUP_HOME = b"usr/local/rustup/"
# Directories that Debian's packages bring.
_DEBIAN = frozenset((b"usr", b"usr/local"))
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}")


def make(inputs: RustupInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Download the newest matching toolchain and rustup, and lay them out.

    Raises:
        DownloadError: Something cannot be had, or is not what the server announced.
        LayerError: The server has no such toolchain or component, or what it has makes no sense.
        LockError: What a lock names cannot be had.
    """
    server = (inputs.server or OFFICIAL_SERVER).rstrip("/")
    target = TARGETS[inputs.architecture]
    workshop.progress(f"asking for the channel {inputs.channel}", 0.0)
    locked = [pinned(inputs.locked, name) for name in (CHANNEL, RUSTUP)]
    with demanded(locked):
        channel = _channel(server, inputs.channel, locked[0], workshop)
        components = channel.components(target, inputs.components)
        workshop.progress(f"downloading Rust {channel.version}, {len(components)} components", 0.1)
        files = [
            Published(f"{inputs.channel}-{each.name}.tar", each.url, each.sha256, LARGEST_ARCHIVE)
            for each in components
        ]
        rustup = locked[1] or _find_rustup(server, target, workshop)
        program = Published(f"rustup-init-{target}", rustup.path, rustup.sha256, LARGEST_ARCHIVE)
        binary, *archives = obtain([program, *files], workshop)
    artifacts = (
        channel.artifact(server, inputs.channel),
        rustup,
        *(Artifact(each.name, channel.number, "", SHA256 + each.sha256, each.url) for each in components),
    )
    check(artifacts, inputs.locked)
    layer.provenance = Provenance(tuple(sorted(artifacts)), sources=(server,))
    content = binary.read_bytes()
    _check_machine(content, inputs.architecture)
    name = f"{inputs.channel}-{target}"
    placing = Placing(layer, _DEBIAN, mtime=channel.released)
    toolchain = Toolchain(_RUSTUP_HOME + b"toolchains/" + name.encode() + b"/", layer, placing)
    for number, (component, archive) in enumerate(zip(components, archives, strict=True)):
        workshop.progress(f"unpacking {component.name}", 0.5 + 0.5 * number / len(components))
        toolchain.add(component, archive)
    toolchain.finish(channel)
    settings = f'version = "12"\ndefault_toolchain = "{name}"\nprofile = "{PROFILE}"\n\n[overrides]\n'
    placing.file(_RUSTUP_HOME + b"settings.toml", settings.encode())
    # rustup compares this with the server's digest to see whether the channel has news.
    placing.file(_RUSTUP_HOME + b"update-hashes/" + name.encode(), channel.sha256[:20].encode())
    placing.file(_CARGO_BIN + b"rustup", content, 0o755)
    for proxy in PROXIES:
        placing.link(_CARGO_BIN + proxy, b"rustup")


def _channel(server: str, name: str, locked: Artifact | None, workshop: Workshop) -> Channel:
    """Return the channel as it is, or as a lock knows it."""
    if locked is None:
        return read_channel(server, name, workshop.cancelled)
    return read_locked_channel(server, name, locked, workshop.cancelled)


def _find_rustup(server: str, target: str, workshop: Workshop) -> Artifact:
    """Return where the newest rustup is: what `rustup self update` would get."""
    url = f"{server}/rustup/release-stable.toml"
    try:
        release = tomllib.loads(fetch(url, limit=1 << 16, cancelled=workshop.cancelled).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LayerError(f"{url} does not tell rustup's version", details=(str(error),)) from error
    version = release.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise LayerError(f"{url} does not tell rustup's version")
    binary = f"{server}/rustup/archive/{version}/{target}/rustup-init"
    text = fetch(f"{binary}.sha256", limit=4096, cancelled=workshop.cancelled)
    digest = published_sha256(f"{binary}.sha256", text)
    return Artifact(RUSTUP, version, target, SHA256 + digest, binary)


def _check_machine(content: bytes, architecture: str) -> None:
    try:
        machine = elf.MACHINES.get(elf.read_elf(content).machine, "another architecture")
    except FormatError as error:
        raise LayerError(f"the server's rustup is no program: {error.message}") from error
    if machine != architecture:
        raise LayerError(f"the server's rustup is for {machine}, not for {architecture}")
