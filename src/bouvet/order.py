"""What is to be built: a spec for an architecture, with the digest that says whether it is built already."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bouvet
from bouvet.formats import ext4, tree
from bouvet.layers import agent as agent_layer
from bouvet.layers import makers
from bouvet.plan import Step, digest_of, plan_layers
from bouvet.spec import Architecture, Spec

MANIFEST = b"usr/share/bouvet/manifest.json"
"""Where an image tells what it was made from."""

PUBLIC_PASSWORD = "root"  # noqa: S105  (the documented one, known to everybody)


@dataclass(frozen=True)
class Order:
    """What to build, apart from where.

    Attributes:
        spec: What the image shall hold.
        architecture: What it runs on.
        name: The image's base name, recorded in its manifest.
    """

    spec: Spec
    architecture: Architecture
    name: str

    @functools.cached_property
    def steps(self) -> list[Step]:
        """The steps that make the image's layers."""
        agent = hashlib.sha256(agent_layer.binary(self.architecture)).hexdigest() if self.spec.agent else ""
        return plan_layers(self.spec, self.architecture, code=makers.code_digests(), agent=agent)

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What the image tells about itself; it has no time of the build."""
        spec = self.spec.model_dump(mode="json")
        if spec["system"]["root_password"] not in {None, PUBLIC_PASSWORD}:
            # Everybody in the guest can read the manifest.
            spec["system"]["root_password"] = "(set)"  # noqa: S105
        return {
            "bouvet": bouvet.__version__,
            "name": self.name,
            "architecture": self.architecture,
            "spec": spec,
            # No digests: a layer's covers the password, and is quick to compute for one who guesses.
            "layers": [step.name for step in self.steps],
        }

    @functools.cached_property
    def digest(self) -> str:
        """A digest over everything that the image is made from."""
        layers = [step.digest for step in self.steps]
        return digest_of({"manifest": self.manifest, "layers": layers, "format": _format_digest()})


@functools.cache
def _format_digest() -> str:
    """Return a digest of the code that lays an image out."""
    digest = hashlib.sha256()
    package = Path(ext4.__file__).parent
    for path in sorted([*package.glob("*.py"), Path(tree.__file__)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
