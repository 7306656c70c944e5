"""The cargo layer: Rust programs compiled in the tree, by its own cargo."""

from __future__ import annotations

import hashlib
import re
import tomllib
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import commands
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import Command
from bouvet.layers.left_files import open_left
from bouvet.layers.pins import check, taken_from
from bouvet.plan.provenance import SHA256, Artifact, Provenance

if TYPE_CHECKING:
    from pathlib import Path

    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import CargoInputs

_HOME = "/usr/local/cargo"
_REGISTRY = f"{_HOME}/registry"
_CRATE = re.compile(r"([A-Za-z0-9_-]+) ([0-9A-Za-z.+-]+) \(")
_RECORD = b"usr/local/cargo/.crates.toml"


def make(inputs: CargoInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Compile and install the programs to /usr/local/cargo/bin.

    Raises:
        CommandFailed: cargo could not install them.
        LayerError: There is no cargo in the layers below.
        LockError: A locked program cannot be had.
    """
    if not any(path.endswith(b"/bin/cargo") for path in workshop.lower):
        raise LayerError("the layers below have no cargo", hint="add the table [rust] to the spec")
    assert workshop.below is not None
    settings = client_settings("CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_HTTP_", "CARGO_NET_")
    cache = workshop.below.cache("cargo")
    command = Command(
        argv=("cargo", "install", f"--root={_HOME}", "--locked", "--", *_wanted(inputs)),
        network=True,
        # What is compiled is left in /tmp, which is no part of the layer.
        environment={
            **settings.environment,
            **dict(inputs.environment),
            "CARGO_HOME": _HOME,
            "CARGO_TARGET_DIR": "/tmp/target",  # noqa: S108  (the tree's own, new and in memory)
        },
        caches={_REGISTRY: cache},
        files=settings.files,
    )
    workshop.progress("compiling Rust programs", None)
    with taken_from(inputs.locked):
        commands.run_over_layers(command, workshop, layer)
    record = layer.tree.get(_RECORD)
    artifacts = installed(b"" if record is None else record.content(), cache)
    check(artifacts, inputs.locked)
    layer.provenance = Provenance(artifacts)


def _wanted(inputs: CargoInputs) -> list[str]:
    """Return the programs, with the versions of a lock. What each is made of is in the program itself."""
    if inputs.locked is None:
        return list(inputs.packages)
    locked = {each.name: f"{each.name}@{each.version}" for each in inputs.locked.artifacts}
    return [locked.get(each.partition("@")[0], each) for each in inputs.packages]


def installed(record: bytes, cache: Path) -> tuple[Artifact, ...]:
    """Return the programs that were installed.

    Args:
        record: The content of `.crates.toml`, where cargo lists them.
        cache: What cargo keeps of registries: their archives are `cache/REGISTRY/NAME-VERSION.crate`.

    Raises:
        LayerError: An archive is not there, or the list makes no sense.
    """
    try:
        listed = tomllib.loads(record.decode()).get("v1", {})
        names = [_CRATE.match(key) for key in listed]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LayerError(f"cargo's list of what it installed makes no sense: {error}") from error
    found = []
    for match in names:
        if match is None:
            raise LayerError("cargo's list of what it installed makes no sense")
        name, version = match.groups()
        archives = sorted(
            cache.glob(f"cache/*/{name}-{version}.crate"), key=lambda path: path.lstat().st_mtime
        )
        if not archives:
            raise LayerError(f"cargo has kept no archive of {name} {version}")
        with open_left(archives[-1]) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(Artifact(name, version, digest=SHA256 + digest))
    return tuple(sorted(found))
