"""What is to be built: a spec for an architecture, with the digest that says whether it is built already."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bouvet
from bouvet import own_content
from bouvet.events import Listener, StepFinished, StepStarted, ToolOutput, ignore
from bouvet.formats import ext4, tree
from bouvet.layers import agent as agent_layer
from bouvet.layers import makers, oci_source, pins
from bouvet.layers.host_files import HostFiles
from bouvet.layers.store import default_root
from bouvet.plan import Step, digest_of, plan_layers, tree_steps
from bouvet.plan.inputs import Variables
from bouvet.plan.lock import with_locks
from bouvet.plan.oci_steps import ContainerBase, OciInputs, Service, with_environment
from bouvet.plan.provenance import Artifact, Locked
from bouvet.spec import Architecture, Spec

MANIFEST = b"usr/share/bouvet/manifest.json"
"""Where an image tells what it was made from."""

SECRET = "(set)"  # noqa: S105  (what is told instead of one)
"""Stands in a manifest for what is set, and not told."""

PUBLIC_PASSWORD = "root"  # noqa: S105  (the documented one, known to everybody)


@dataclass(frozen=True)
class Order:
    """What to build, apart from where.

    Attributes:
        spec: What the image shall hold.
        architecture: What it runs on.
        name: The image's base name, recorded in its manifest.
        directory: What the spec's host paths are relative to.
        locks: What a lock says of steps, by their names.
        container_lock: The container image that a lock names, and its layers; empty without one.
        kernel_lock: The kernel that a lock names.
    """

    spec: Spec
    architecture: Architecture
    name: str
    directory: Path = Path()
    locks: Mapping[str, Locked] = field(default_factory=dict)
    container_lock: tuple[Artifact, ...] = ()
    kernel_lock: Artifact | None = None

    @functools.cached_property
    def content(self) -> dict[str, HostFiles]:
        """The user's own content that the spec names or holds, by its place in the plan.

        Raises:
            SpecError: Some of it cannot be read; the details list all of it.
        """
        return own_content.collect(self.spec, self.directory)

    def fetch(self, *, refresh: bool, listener: Listener = ignore) -> None:
        """Copy the registry's image that it starts with, if it does and there is no copy yet.

        Args:
            refresh: Ask the registry again, whatever was copied before.
            listener: Is told of the progress.

        Raises:
            BouvetError: It cannot be copied.
        """
        source, downloads = self._source, _downloads()
        if not source.startswith("docker:"):
            return
        if oci_source.pulled(source, self.architecture, downloads).exists() and not refresh:
            return
        started = time.monotonic()
        listener(StepStarted("pull", "refresh" if refresh else "not in the cache"))
        oci_source.pull(source, self.architecture, downloads, lambda line: listener(ToolOutput("pull", line)))
        listener(StepFinished("pull", time.monotonic() - started, source))

    @functools.cached_property
    def container(self) -> ContainerBase | None:
        """The container image that it starts with, None for a tree of Debian's.

        Raises:
            BouvetError: It cannot be found, or is damaged.
        """
        if self.spec.from_ is None:
            return None
        self.fetch(refresh=False)
        image = oci_source.find_image(self._source, self.architecture, self.directory, _downloads())
        layers = tuple(
            OciInputs(blob.diff_id, blob.digest, str(blob.place.path), blob.place.offset, blob.place.size)
            for blob in image.layers
        )
        named = container_artifacts(self.spec.from_, image.digest, layers)
        pins.check(named, Locked(self.container_lock) if self.container_lock else None)
        found = image.configuration
        service = Service(found.entrypoint, found.command, found.environment, found.user, found.directory)
        return ContainerBase(image.digest, layers, service)

    @property
    def _source(self) -> str:
        """What `from` says, or the locked state of a registry's image; empty for a tree of Debian's."""
        source = self.spec.from_ or ""
        if not self.container_lock or not source.startswith("docker:"):
            return source
        # A tag and a digest together are no reference that skopeo takes.
        before, slash, last = source.partition("@")[0].rpartition("/")
        return f"{before}{slash}{last.partition(':')[0]}@{self.container_lock[0].digest}"

    @functools.cached_property
    def resolved(self) -> Spec:
        """The spec, with what a container image says of its environment."""
        return self.spec if self.container is None else with_environment(self.spec, self.container)

    @functools.cached_property
    def steps(self) -> list[Step]:
        """The steps that make the image's layers."""
        return with_locks(self.unlocked_steps, self.locks)

    @functools.cached_property
    def unlocked_steps(self) -> list[Step]:
        """The same without a lock."""
        agent = hashlib.sha256(agent_layer.binary(self.architecture)).hexdigest() if self.spec.agent else ""
        return plan_layers(
            self.resolved,
            self.architecture,
            code=makers.code_digests(),
            agent=agent,
            content={place: files.digest for place, files in self.content.items()},
            container=self.container,
        )

    @functools.cached_property
    def sources(self) -> dict[str, HostFiles]:
        """The same by its digest, for the makers."""
        return {files.digest: files for files in self.content.values()}

    @property
    def environment(self) -> Variables:
        """The variables of everything in the image, PATH first."""
        return tree_steps.environment(self.resolved)

    @property
    def kernel(self) -> str:
        """The name of the kernel that boots the image, as `--kernel` takes it."""
        name = self.spec.kernel.name(self.architecture)
        pinned = name == "debian" and self.kernel_lock is not None
        return f"{name}#sha256={self.kernel_lock.sha256}" if pinned and self.kernel_lock else name

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What the image tells about itself; it has no time of the build, and nothing of the host.

        `manifest_tree` in the pipeline adds what its layers are made from.
        """
        spec = public(self.resolved)
        if self.spec.from_ is not None and self.container is not None:
            # Which image, and not where on the host it lay.
            spec["from_"] = f"{self.spec.from_.partition(':')[0]}@{self.container.digest}"
        return {
            "bouvet": bouvet.__version__,
            "protocol": agent_layer.PROTOCOL,
            "name": self.name,
            "architecture": self.architecture,
            "kernel": self.kernel,
            "spec": spec,
            "spec_digest": digest_of(spec),
            # No digests: a layer's covers the password, and is quick to compute for one who guesses.
            "layers": [step.name for step in self.steps],
        }

    @functools.cached_property
    def digest(self) -> str:
        """A digest over everything that the image is made from."""
        layers = [step.digest for step in self.steps]
        return digest_of({"manifest": self.manifest, "layers": layers, "format": _format_digest()})


def container_artifacts(source: str, digest: str, layers: Sequence[OciInputs]) -> tuple[Artifact, ...]:
    """Return a container image and its layers as they stand in a lock.

    Args:
        source: What the spec's `from` says.
        digest: The image's digest.
        layers: Its layers, the lowest first.
    """
    named = [Artifact(f"layer-{number}", digest=layer.diff_id) for number, layer in enumerate(layers, 1)]
    return (Artifact(source, digest=digest), *named)


def public(spec: Spec) -> dict[str, Any]:
    """Return a spec as everybody in the guest may read it: without passwords and what else may be secret."""
    data = spec.model_dump(mode="json")
    # The tree, and each form of it, is the same whatever else is written.
    del data["formats"]
    # Where a locked package was had makes no other image.
    del data["debian"]["snapshot"]
    for account, key in ((data["system"], "root_password"), *((user, "password") for user in data["users"])):
        if account[key] not in {None, PUBLIC_PASSWORD}:
            account[key] = SECRET
    for file in data["files"]:
        # Files have owners and modes; the manifest is everybody's.
        if file["content"] is not None:
            file["content"] = SECRET
    data["variables"] = dict.fromkeys(data["variables"], SECRET)
    for run in data["run"]:
        run["env"] = dict.fromkeys(run["env"], SECRET)
    return data


def _downloads() -> Path:
    """Return where copies of registries' images are kept."""
    return default_root() / "downloads" / "oci"


@functools.cache
def _format_digest() -> str:
    """Return a digest of the code that lays an image out."""
    digest = hashlib.sha256()
    package = Path(ext4.__file__).parent
    for path in sorted([*package.glob("*.py"), Path(tree.__file__)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
