"""Packs a tree into an image file, with a description beside it that tells what the file holds.

The description is how the next build finds out that nothing has changed, or which parts of an image it can
leave where they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from bouvet.events import Listener, StepFinished, StepProgress, StepStarted
from bouvet.formats import ext4
from bouvet.formats.tree import FileTree
from bouvet.image import exports
from bouvet.image.output import replacing, reworking
from bouvet.image.sizes import check_size
from bouvet.layers import agent as agent_layer
from bouvet.layers import namespaces
from bouvet.order import Order
from bouvet.spec import Architecture

Form = Literal["ext4", "squashfs", "erofs", "tar", "qcow2"]
"""What a build can write."""

_BILLION = 1_000_000_000

_WORTHWHILE = 0.5
"""The part of an image's data that has to be there already for it to be changed in place."""


def write_image(
    order: Order,
    content: FileTree,
    target: Path,
    *,
    newest: int,
    layers: Mapping[str, int],
    listener: Listener,
) -> None:
    """Write an image and its description.

    An image that a build has written, and that nobody has touched since or has open, is changed in place:
    only what differs is written. The bytes are the same either way.

    Args:
        order: What to build.
        content: All of the image.
        target: The image's path; it appears whole or not at all.
        newest: The image's time, in nanoseconds since 1970.
        layers: What each layer takes of it, in bytes, for the description.
        listener: Is told of the progress.

    Raises:
        ImageError: It cannot be written. If an image was there before, and was not being changed in
            place, it is left as it was.
    """
    started = time.monotonic()
    listener(StepStarted("image", "changed" if target.exists() else "not there"))
    plan = _plan(order, content, newest)
    check_size(content, plan.size, order.spec.max_size)

    def progress(fraction: float) -> None:
        listener(StepProgress("image", f"{plan.size / (1 << 20):.0f} MiB", fraction))

    kept = _rework(plan, target, progress)
    if kept is None:
        with replacing(target) as descriptor:
            ext4.write_filesystem(plan, descriptor, progress=progress)
    _describe(order, plan, layers, target)
    how = "" if kept is None else f", {kept / (1 << 20):.1f} MiB of it as they were"
    outcome = f"{target}, {plan.size / (1 << 20):.1f} MiB{how}, {len(content)} files"
    listener(StepFinished("image", time.monotonic() - started, outcome))


def write_export(
    order: Order, content: FileTree, target: Path, form: Form, *, newest: int, listener: Listener
) -> None:
    """Write a tree in another form than ext4, and its description, `<file>.json`.

    Args:
        order: What to build.
        content: All of the image.
        target: The file's path; it appears whole or not at all.
        form: What is written, not `ext4`. A qcow2 holds the ext4 image.
        newest: The image's time, in nanoseconds since 1970.
        listener: Is told of the progress.

    Raises:
        BouvetError: It cannot be written, or the program for it failed or is missing.
    """
    started = time.monotonic()
    listener(StepStarted(form, "changed" if target.exists() else "not there"))
    with replacing(target) as descriptor:
        match form:
            case "tar":
                exports.write_tar(content, descriptor, newest=newest)
            case "squashfs":
                exports.write_squashfs(content, descriptor, newest=newest)
            case "erofs":
                with _scratch(target.parent) as scratch:
                    exports.write_erofs(
                        content,
                        descriptor,
                        newest=newest,
                        identity=_identity(order),
                        scratch=scratch,
                        as_root=namespaces.enter_namespaces(),
                    )
            case "qcow2":
                with tempfile.TemporaryFile(dir=target.parent) as image:
                    ext4.write_filesystem(_plan(order, content, newest), image.fileno())
                    exports.write_qcow2(image.fileno(), descriptor)
        size = os.fstat(descriptor).st_size
        if order.spec.max_size is not None and form != "tar":
            check_size(content, size, order.spec.max_size)
    _write_description(target, {"image": _about(order, target), "manifest": order.manifest})
    listener(StepFinished(form, time.monotonic() - started, f"{target}, {size / (1 << 20):.1f} MiB"))


def is_current(target: Path, digest: str) -> bool:
    """Return whether the image was written from the same inputs and not changed since."""
    try:
        found = json.loads(_description(target).read_bytes())["image"]
        state = target.stat()
        recorded = (found["digest"], found["size"], found["mtime_ns"])
        return bool(recorded == (digest, state.st_size, state.st_mtime_ns))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def described_kernel(target: Path) -> str | None:
    """Return the name of the kernel that the image's spec says; None if no description is beside it.

    The description is the host's; what an image says of itself must not send the host anywhere.
    """
    try:
        return str(json.loads(_description(target).read_bytes())["image"]["kernel"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def described_manifest(target: Path) -> dict[str, Any] | None:
    """Return what the image was made from; None if no description that tells it is beside it."""
    try:
        manifest = json.loads(_description(target).read_bytes())["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if isinstance(manifest, dict) else None


def described_layers(target: Path) -> dict[str, int]:
    """Return what each layer takes of an image, in bytes, if a build wrote it and nobody changed it since."""
    try:
        description = json.loads(_description(target).read_bytes())
        state = target.stat()
        if [description["image"][key] for key in ("size", "mtime_ns")] != [state.st_size, state.st_mtime_ns]:
            return {}
        return {str(name): int(size) for name, size in description["layers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def place_agent(architecture: Architecture, target: Path) -> None:
    """Put the agent's binary beside the image, if it is not there already."""
    content = agent_layer.binary(architecture)
    with contextlib.suppress(OSError):
        if target.read_bytes() == content and target.stat().st_mode & 0o777 == 0o755:
            return
    with replacing(target, mode=0o755) as descriptor, open(descriptor, "wb", closefd=False) as file:
        file.write(content)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Yield an empty directory, and remove it with what is in there, whoever owns that."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=".bouvet."))
    try:
        yield directory
    finally:
        namespaces.remove_tree(directory)


def _description(target: Path) -> Path:
    """Return the path of an image's description."""
    return (
        target.with_suffix(".json") if target.suffix == ".ext4" else target.with_name(target.name + ".json")
    )


def _identity(order: Order) -> uuid.UUID:
    """Return the UUID of an order's file systems."""
    return uuid.UUID(bytes=bytes.fromhex(order.digest)[:16], version=4)


def _plan(order: Order, content: FileTree, newest: int) -> ext4.Ext4Plan:
    options = ext4.Ext4Options(
        label=order.spec.label,
        uuid=_identity(order),
        hash_seed=_identity(order),
        size=order.spec.size,
        free=0 if order.spec.size is not None else order.spec.free,
        timestamp=max(0, newest // _BILLION),
    )
    return ext4.plan_filesystem(content, options)


def _rework(plan: ext4.Ext4Plan, target: Path, progress: ext4.Progress) -> int | None:
    """Change the image in place, if that can be; return how many bytes stayed, else None."""
    state, known = _recorded(_description(target))
    present = ext4.present_spans(plan, known)
    kept = sum(span.stop - span.start for span in present)
    if not kept or kept < _WORTHWHILE * sum(copy.length for copy in plan.copies):
        return None
    with reworking(target, lambda found: _state(found) == state) as descriptor:
        if descriptor is None:
            return None
        # From here on the description is wrong.
        _description(target).unlink(missing_ok=True)
        ext4.write_filesystem(plan, descriptor, present=present, progress=progress)
    return kept


def _state(found: os.stat_result) -> list[int]:
    """Return what changes with every change of a file, by whomever."""
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _recorded(description: Path) -> tuple[list[int], list[ext4.Place]]:
    """Return the image's state when it was written, and where its data lies; empty if that is not known."""
    try:
        written = json.loads(description.read_bytes())["written"]
        places = [ext4.Place(str(name), *map(int, numbers)) for name, *numbers in written["places"]]
        return [int(number) for number in written["state"]], sorted(places, key=lambda place: place[3])
    except (OSError, ValueError, KeyError, TypeError):
        return [], []


def _describe(order: Order, plan: ext4.Ext4Plan, layers: Mapping[str, int], target: Path) -> None:
    """Write the image's description beside it."""
    document = {
        "image": _about(order, target),
        "manifest": order.manifest,
        "layers": dict(layers),
        "written": {"state": _state(target.stat()), "places": ext4.places(plan)},
    }
    _write_description(target, document)


def _about(order: Order, target: Path) -> dict[str, Any]:
    """Return what is told of a written file."""
    state = target.stat()
    return {
        "file": target.name,
        "digest": order.digest,
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "kernel": order.kernel,
    }


def _write_description(target: Path, document: dict[str, Any]) -> None:
    with replacing(_description(target)) as descriptor, open(descriptor, "w", closefd=False) as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.write("\n")
