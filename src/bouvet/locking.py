"""Locks: what an image was made of is written down, and later builds take exactly that."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bouvet.errors import LockError
from bouvet.events import Listener, ignore
from bouvet.image.output import replacing
from bouvet.layers.layer import Layer
from bouvet.layers.npm_packages import BEFORE
from bouvet.layers.store import Store, default_root
from bouvet.making import make_layers, renewing_corrupt_layers
from bouvet.order import Order, container_artifacts
from bouvet.pipeline import kernel_cache
from bouvet.plan.lock import (
    ImageLock,
    Lock,
    StepLock,
    all_locked,
    changes,
    format_lock,
    is_lockable,
    kept,
    parse_lock,
    request_of,
)
from bouvet.plan.provenance import SHA256, Artifact
from bouvet.vm.kernel import UrlKernel, parse_kernel

FILE_NAME = "bouvet.lock"
"""The lock's name, beside the spec; that of presets is in the working directory."""

LARGEST_LOCK = 64 << 20
"""Bytes that a lock may have."""

KERNEL = "kernel"
"""What the kernel is called among the names of what is locked."""


@dataclass(frozen=True, slots=True)
class LockResult:
    """What locking came to.

    Attributes:
        path: The lock.
        artifacts: How many artifacts it has for the image.
        changes: What is different from the lock before, a line each; nothing if there was none.
    """

    path: Path
    artifacts: int
    changes: tuple[str, ...]


def write_lock(
    order: Order,
    spec: str,
    path: Path,
    *,
    update: Sequence[str] | None = None,
    cache: Path | None = None,
    listener: Listener = ignore,
) -> LockResult:
    """Write down what an image is made of; what the lock has of other images stays.

    Layers that are in the cache are taken as they are, the others are made. What was locked before stays
    locked, apart from what is updated and from what the spec does not ask for any more.

    Args:
        order: The image.
        spec: The spec's short name.
        path: The lock; it appears whole or not at all.
        update: Names of artifacts or steps to take the newest of, or `kernel`; all of them if it is empty,
            nothing if it is None.
        cache: The cache's directory; the user's by default.
        listener: Is told of the progress.

    Raises:
        LockError: The lock that is there cannot be read, names none of `update`, or names what cannot be had.
        BouvetError: A layer cannot be made; the lock that was there is left as it was.
    """
    lock = read_lock(path) if path.exists() else {}
    before = lock.get((spec, order.architecture))
    names = None if update is None else list(update)
    if names and before is None:
        raise LockError(
            f"{path} has no image of {spec} for {order.architecture}", hint="leave out the names, or --update"
        )
    renew = names == []
    if before is not None and not renew:
        order = dataclasses.replace(
            order,
            locks=kept(before, order.unlocked_steps, names or ()),
            container_lock=before.container if _same_container(before, order, names) else (),
        )
    order.fetch(refresh=renew, listener=listener)
    locked = before if before is not None and names is None and _fits(before, order) else None
    after = locked or _made(order, spec, renew, cache, listener)
    kernel = None if before is None or renew or KERNEL in (names or ()) else before.kernel
    after = dataclasses.replace(
        after, kernel=_kernel(order, kernel, renew or KERNEL in (names or ()), listener)
    )
    lock[spec, order.architecture] = after
    with replacing(path) as descriptor, open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(format_lock(lock))
    count = len(after.container) + sum(len(step.artifacts) for step in after.steps.values())
    return LockResult(path, count, () if before is None else tuple(changes(before, after)))


def locked_order(order: Order, spec: str, path: Path) -> Order:
    """Return the order that takes exactly what a lock says.

    Args:
        order: The image.
        spec: The spec's short name.
        path: The lock.

    Raises:
        LockError: There is no lock, it has no such image, or it does not fit the spec.
    """
    image = read_lock(path).get((spec, order.architecture))
    if image is None:
        raise LockError(
            f"{path} has no image of {spec} for {order.architecture}", hint="lock it first: bouvet lock"
        )
    if bool(image.container) != (order.spec.from_ is not None) or not _same_container(image, order, None):
        raise LockError(
            f"{path} does not fit the spec {spec}",
            hint="'bouvet lock' locks what is new and keeps the rest",
            details=(f"from: the lock has {image.container[0].name if image.container else 'none'}",),
        )
    pinned = dataclasses.replace(order, container_lock=image.container, kernel_lock=image.kernel)
    return dataclasses.replace(pinned, locks=all_locked(image, pinned.unlocked_steps, str(path)))


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        LockError: It cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_LOCK + 1)
        if len(content) > LARGEST_LOCK:
            raise LockError(
                f"{path} is larger than {LARGEST_LOCK >> 20} MiB",
                hint="is it a lock? 'bouvet lock' writes it anew where there is none",
            )
        return parse_lock(content.decode(), str(path))
    except FileNotFoundError as error:
        raise LockError(f"there is no lock {path}", hint="write it with 'bouvet lock'") from error
    except OSError as error:
        raise LockError(f"the lock {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LockError(f"{path} is no lock: {error}", hint="write it anew with 'bouvet lock'") from error


def locked_names(path: Path, spec: str) -> list[str]:
    """Return the names of what a lock has of a spec: artifacts, steps, and the kernel.

    Raises:
        LockError: The lock cannot be read.
    """
    found = {KERNEL}
    for image in read_lock(path).values():
        if image.spec == spec:
            found.update(image.steps)
            found.update(artifact.name for step in image.steps.values() for artifact in step.artifacts)
    return sorted(found)


def _same_container(image: ImageLock, order: Order, free: Sequence[str] | None) -> bool:
    """Return whether the locked container image is the one that the spec names, and not to be updated."""
    if not image.container:
        return True
    name = image.container[0].name
    return name == order.spec.from_ and name not in (free or ())


def _fits(image: ImageLock, order: Order) -> bool:
    """Return whether a lock is what locking would write: nothing has to be made to know it."""
    wanted = {step.name: request_of(step) for step in order.unlocked_steps if is_lockable(step)}
    return (
        wanted == {name: step.request for name, step in image.steps.items()}
        and bool(order.container) == bool(image.container)
        and image.digest == order.manifest["spec_digest"]
    )


def _made(order: Order, spec: str, renew: bool, cache: Path | None, listener: Listener) -> ImageLock:
    """Make the layers of all steps that choose what they install, and return what they chose."""
    wanted = {step.name for step in order.steps if is_lockable(step)}
    for step in reversed(order.steps):
        if step.name in wanted:
            wanted.update(step.after)
    found: dict[str, StepLock] = {}

    def take(layers: Sequence[Layer]) -> None:
        made = {layer.name: layer for layer in layers}
        for step in order.steps:
            if is_lockable(step):
                told = made[step.name].provenance
                sources = told.sources
                if step.inputs.kind == "npm" and not sources:
                    chosen = datetime.datetime.fromtimestamp(int(made[step.name].created) + 1, datetime.UTC)
                    sources = (f"{BEFORE}{chosen:%Y-%m-%dT%H:%M:%SZ}",)
                found[step.name] = StepLock(request_of(step), sources, told.artifacts)

    with Store(cache or default_root()) as store:
        renewing_corrupt_layers(
            lambda again: take(make_layers(order, store, again, listener, only=frozenset(wanted))),
            store,
            refresh=renew,
            listener=listener,
        )
    base = order.container
    container = () if base is None else container_artifacts(order.spec.from_ or "", base.digest, base.layers)
    digest = str(order.manifest["spec_digest"])
    return ImageLock(spec, order.architecture, digest, None, container, found)


def _kernel(order: Order, known: Artifact | None, renew: bool, listener: Listener) -> Artifact:
    """Return the kernel that boots the image: the one that is known, the cached one, or the newest."""
    source = parse_kernel(order.spec.kernel.name(order.architecture), order.architecture)
    if isinstance(source, UrlKernel):
        return Artifact("url", "", order.architecture, SHA256 + source.sha256, source.url)
    if known is not None and known.name == "debian":
        return known
    kernels = kernel_cache()
    kernel = (kernels.fetch if renew else kernels.get)(source, listener=listener)
    return Artifact("debian", kernel.release, order.architecture, SHA256 + kernel.digest)
