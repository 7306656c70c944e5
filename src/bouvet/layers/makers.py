"""The makers by kind, and digests of their code.

A layer's address covers the code that made it, so that a change of a maker makes a new layer. Which
modules that is, is read from the imports: nobody has to remember a version number.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Protocol

from bouvet.layers import (
    agent,
    apt,
    cargo,
    container,
    debian,
    files,
    locale,
    node,
    nodejs_org,
    npm_packages,
    oci,
    pip,
    run,
    rust,
    rustup,
    system,
    users,
)
from bouvet.layers.maker import Workshop
from bouvet.layers.writer import LayerWriter
from bouvet.plan.steps import Step

_ROOM = Path(__file__).parent
_IMPORT = re.compile(r"^\s*from bouvet\.layers(?:\.(\w+))? import (?:\(([\w,\s]+)\)|([\w, ]+))", re.MULTILINE)
_MODULES = {
    "debian": debian,
    "oci": oci,
    "node": node,
    "nodejs_org": nodejs_org,
    "rust": rust,
    "rustup": rustup,
    "apt": apt,
    "locale": locale,
    "users": users,
    "pip": pip,
    "npm": npm_packages,
    "cargo": cargo,
    "files": files,
    "run": run,
    "system": system,
    "container": container,
    "agent": agent,
}


class Make(Protocol):
    """A maker: adds a step's entries to a new layer."""

    def __call__(self, inputs: object, workshop: Workshop, layer: LayerWriter) -> None:
        """Make the layer.

        Raises:
            BouvetError: It cannot be made; nothing is committed.
        """
        ...


def make(step: Step, workshop: Workshop, layer: LayerWriter) -> None:
    """Make a step's layer."""
    maker: Make = _MODULES[step.inputs.kind].make
    maker(step.inputs, workshop, layer)


@functools.cache
def code_digests() -> dict[str, str]:
    """Return, for each kind of step, the SHA-256 of the sources that make it."""
    return {kind: _digest(module.__name__.rpartition(".")[2]) for kind, module in _MODULES.items()}


def _digest(module: str) -> str:
    """Return a digest over a module of this room and all others of it that it imports."""
    pending, seen = [module], set()
    while pending:
        name = pending.pop()
        if name in seen or not (_ROOM / f"{name}.py").exists():
            continue
        seen.add(name)
        for found in _IMPORT.finditer((_ROOM / f"{name}.py").read_text(encoding="utf-8")):
            names = (found[2] or found[3]).split(",")
            pending += [found[1]] if found[1] else [part.strip() for part in names]
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(name.encode() + b"\0" + (_ROOM / f"{name}.py").read_bytes() + b"\0")
    return digest.hexdigest()
