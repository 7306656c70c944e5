"""The one module that joins the rooms: a spec becomes layers, and layers an image."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bouvet import packing, process
from bouvet.errors import FormatError, LayerError
from bouvet.events import (
    Listener,
    StepFinished,
    StepWaits,
    ignore,
)
from bouvet.formats import tree
from bouvet.formats.filesystems import read_only_filesystem
from bouvet.formats.tree import FileTree
from bouvet.image.expectation import Expectation
from bouvet.image.packages import stored
from bouvet.image.report import Report, Row
from bouvet.image.sizes import unique_files
from bouvet.image.verify import check_image
from bouvet.layers import commands, enclosure, namespaces
from bouvet.layers.layer import Layer
from bouvet.layers.merge import merge
from bouvet.layers.store import Entry, Store, default_root
from bouvet.making import make_layers, renewing_corrupt_layers
from bouvet.order import MANIFEST, Order
from bouvet.plan.provenance import Provenance
from bouvet.spec import Spec
from bouvet.step_timings import StepRecorder, StepTiming
from bouvet.vm.debian_kernel import DebianKernel
from bouvet.vm.kernel import KernelCache, parse_kernel
from bouvet.vm.kernel_build import build_kernel

__all__ = [
    "BuildResult",
    "DebianKernel",
    "Order",
    "Report",
    "Row",
    "as_json",
    "build",
    "build_kernel",
    "cached_layers",
    "default_root",
    "enter",
    "kernel_cache",
    "merged_tree",
    "parse_kernel",
    "prune_cache",
    "read_only_filesystem",
    "verify_static",
]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build came to.

    Attributes:
        image: The image's path, that of the first form if several were asked for.
        others: The paths of the other forms.
        agent: The agent's path beside it, None if the spec has none.
        size: The image's size in bytes.
        digest: SHA-256 over everything that was asked for; equal layers then give equal bytes.
        layers: Name and digest of each layer, lowest first.
        unchanged: Whether the image was there already.
        seconds: Wall time of the build.
        timings: When each step ran, by its start.
    """

    image: Path
    others: tuple[Path, ...]
    agent: Path | None
    size: int
    digest: str
    layers: tuple[tuple[str, str], ...]
    unchanged: bool
    seconds: float
    timings: tuple[StepTiming, ...]


def build(
    order: Order,
    target: Path,
    *,
    refresh: bool = False,
    keep_failed: bool = False,
    cache: Path | None = None,
    listener: Listener = ignore,
) -> BuildResult:
    """Build an image and put the agent's binary beside it.

    Args:
        order: What to build.
        target: The image's path, which ends in .ext4; it appears whole or not at all. Beside it,
            `<stem>.json` describes it. The other forms that the spec asks for end in `.<form>`, and
            `.<form>.json` describes each.
        refresh: Make every layer anew, whatever the cache has.
        keep_failed: Keep the tree of a command that failed, for `enter`.
        cache: The cache's directory; the user's by default.
        listener: Is told of the progress.

    Raises:
        BouvetError: A step or the image failed; an image that was there before is left as it was.
    """
    started = time.monotonic()
    listener = recorder = StepRecorder(listener)
    order.fetch(refresh=refresh, listener=listener)
    agent = target.parent / "bouvet-agent" if order.spec.agent else None
    targets = {form: target.with_suffix(f".{form}") for form in dict.fromkeys(order.spec.formats)}
    stale = [form for form, path in targets.items() if refresh or not packing.is_current(path, order.digest)]
    for form, path in targets.items():
        if form not in stale:
            name = "image" if form == "ext4" else form
            outcome = f"{path} is up to date"
            listener(StepFinished(name, time.monotonic() - started, outcome, cached=True))
    if stale:
        steps = tuple(step.name for step in order.steps)
        for form in stale:
            listener(StepWaits("image" if form == "ext4" else form, steps))
        outdated = {form: targets[form] for form in stale}
        with Store(cache or default_root()) as store:

            def make(renew: bool) -> None:
                layers = make_layers(order, store, renew, listener, keep_failed=keep_failed)
                _write(order, layers, outdated, listener)

            renewing_corrupt_layers(make, store, refresh=refresh, listener=listener)
    if agent is not None:
        packing.place_agent(order.architecture, agent)
    image, *others = targets.values()
    return BuildResult(
        image=image,
        others=tuple(others),
        agent=agent,
        size=image.stat().st_size,
        digest=order.digest,
        layers=tuple((step.name, step.digest) for step in order.steps),
        unchanged=not stale,
        seconds=time.monotonic() - started,
        timings=recorder.timings(),
    )


def _write(
    order: Order, layers: Sequence[Layer], targets: Mapping[packing.Form, Path], listener: Listener
) -> None:
    """Write an order's layers in each form that is asked for."""
    content, time_of_all = merged_tree(order, layers), newest(layers)
    for form, path in targets.items():
        if form == "ext4":
            sizes = layer_sizes(content, layers)
            packing.write_image(order, content, path, newest=time_of_all, layers=sizes, listener=listener)
        else:
            packing.write_export(order, content, path, form, newest=time_of_all, listener=listener)


def merged_tree(order: Order, layers: Sequence[Layer]) -> FileTree:
    """Return the image's tree: the layers laid over each other, and the manifest on top."""
    return merge([*(layer.tree for layer in layers), manifest_tree(order, layers)])


def manifest_tree(order: Order, layers: Sequence[Layer]) -> FileTree:
    """Return the tree of the manifest that goes on top of an order's layers."""
    told = order.manifest | {"provenance": {layer.name: _told(layer.provenance) for layer in layers}}
    content = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
    time_of_all = newest(layers)
    return {
        MANIFEST.rpartition(b"/")[0]: tree.directory(mtime=time_of_all),
        MANIFEST: tree.regular_file(content, mtime=time_of_all),
    }


def _told(provenance: Provenance) -> dict[str, Any]:
    """Return what a layer was made from, for the manifest: artifacts by name, each a short line."""
    return {
        "artifacts": [
            {key: value for key, value in dataclasses.asdict(artifact).items() if value and key != "path"}
            for artifact in provenance.artifacts
        ],
        "sources": list(provenance.sources),
        "tools": dict(provenance.tools),
    }


def newest(layers: Sequence[Layer]) -> int:
    """Return the newest time of the layers' entries, which is the image's time, in nanoseconds."""
    return max((inode.mtime for layer in layers for inode in layer.tree.values()), default=0)


def layer_sizes(content: FileTree, layers: Sequence[Layer]) -> dict[str, int]:
    """Return the bytes that each layer's files take in a merged tree, without what another one hides."""
    layer_of = {id(inode): layer.name for layer in layers for inode in layer.tree.values()}
    sizes = dict.fromkeys((layer.name for layer in layers), 0)
    for _, inode in unique_files(content):
        if id(inode) in layer_of:
            sizes[layer_of[id(inode)]] += stored(inode)
    return sizes


def cached_layers() -> list[Entry]:
    """Return the user's cached layers, the last used first."""
    with Store(default_root()) as store:
        return store.entries()


def prune_cache(unused_for: float, *, downloads: bool) -> tuple[list[Entry], int]:
    """Remove layers that were not used for so many seconds; return them, and the bytes set free.

    Args:
        unused_for: Seconds; 0 removes all that are not in use.
        downloads: Remove the kept downloads too.
    """
    with Store(default_root()) as store:
        removed = store.prune(unused_for)
        freed = sum(entry.size for entry in removed)
        return removed, freed + (store.prune_downloads() if downloads else 0)


def enter(place: Path, argv: Sequence[str]) -> int:
    """Run a command, on the terminal, in what a failed step left; return its status.

    Meanwhile it and the layers below stay in the cache.

    Args:
        place: The directory that the step's error names.
        argv: What to run; a shell if it is empty.

    Raises:
        CacheError: Somebody is in there already.
        LayerError: There is no such directory any more, or its tree cannot be mounted.
    """
    place = place.absolute()
    digests = commands.digests_below(place)
    with Store(place.parents[1]) as store:
        store.hold_failed(place, digests)
        line = commands.entering(place, argv)
        process.run_on_terminal(line, env=namespaces.python_environment())
        report = json.loads((place / enclosure.REPORT).read_bytes() or b"{}")
    if "status" not in report:
        raise LayerError(f"{place} cannot be entered: {report.get('error', 'it was killed')}")
    status = int(report["status"])
    return status if status >= 0 else 128 - status


def kernel_cache() -> KernelCache:
    """Return the user's cache of kernels."""
    return KernelCache(default_root() / "kernels")


def verify_static(image: Path, spec: Spec | None = None) -> Report:
    """Check an image against what it must be, without booting it.

    Args:
        image: The image.
        spec: What it was built from; what its own manifest says by default.

    Raises:
        FormatError: The image holds no ext4 file system.
        ImageError: It cannot be read.
    """
    if (filesystem := read_only_filesystem(image)) is not None:
        raise FormatError(
            f"{image} holds a {filesystem}, whose files are not read",
            hint="it can be checked where it runs: 'bouvet verify' without --static",
        )
    expected = None if spec is None else Expectation.from_spec(spec.model_dump(mode="json"), None)
    return check_image(image, expected=expected)


def as_json(result: object) -> dict[str, Any]:
    """Return a result's attributes for `--json`, paths as text."""
    assert dataclasses.is_dataclass(result)
    assert not isinstance(result, type)
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(result), default=str))
    return found
