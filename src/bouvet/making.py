"""Makes an order's layers: those that the cache does not have, at the same time where none needs another."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bouvet import planning, process
from bouvet.errors import BouvetError, LayerCorrupt
from bouvet.events import (
    Listener,
    Note,
    StepFinished,
    StepProgress,
    StepStarted,
    StepWaits,
    ToolOutput,
)
from bouvet.layers import makers
from bouvet.layers.layer import Layer
from bouvet.layers.maker import LowerLayers, Workshop
from bouvet.layers.merge import merge
from bouvet.layers.store import Store
from bouvet.layers.unpacked import UnpackedLayers
from bouvet.layers.writer import LayerWriter
from bouvet.order import Order
from bouvet.plan import Step
from bouvet.plan.lock import is_settled
from bouvet.plan.record import Record
from bouvet.planning import why


def make_layers(
    order: Order,
    store: Store,
    refresh: bool,
    listener: Listener,
    *,
    keep_failed: bool = False,
    only: frozenset[str] | None = None,
) -> list[Layer]:
    """Return the order's layers, lowest first, making those that the cache does not have.

    With `only`, those of the named steps alone; what they lie on has to be among them. Steps that do not
    read each other's layers are made at the same time. When one fails, what the others run is ended; with
    `keep_failed`, a failed command's tree is kept to be entered.
    """
    layers: dict[str, concurrent.futures.Future[Layer]] = {}
    before = planning.last_record(order, store.root)
    making = _Making(order, store, UnpackedLayers(store), refresh, keep_failed, listener, before)
    steps = [step for step in order.steps if only is None or step.name in only]
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(steps)))
    try:
        for step in steps:
            below = [layers[name] for name in step.after]
            if below:
                listener(StepWaits(step.name, tuple(step.after)))
            layers[step.name] = pool.submit(_obtain, making, step, below)
        for future in concurrent.futures.as_completed(layers.values()):
            future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        store.cancel()
        with process.stopping():
            pool.shutdown(wait=True)
        raise
    pool.shutdown()
    if only is None:
        planning.remember(order, store.root)
    return [layers[step.name].result() for step in steps]


def renewing_corrupt_layers(
    work: Callable[[bool], None], store: Store, *, refresh: bool, listener: Listener
) -> None:
    """Run the work; when a cached layer turns out to be corrupt, evict it and run the work once more.

    A second one would mean that the disk or the memory is failing, so it is reported.
    """
    try:
        work(refresh)
    except LayerCorrupt as error:
        listener(Note(f"{error.message}; it is made again"))
        store.evict(error.digest)
        work(False)


@dataclass(frozen=True, slots=True)
class _Making:
    """What the steps of one build share."""

    order: Order
    store: Store
    unpacked: UnpackedLayers
    refresh: bool
    keep_failed: bool
    listener: Listener
    before: Record


def _obtain(making: _Making, step: Step, below: Sequence[concurrent.futures.Future[Layer]]) -> Layer:
    """Return a step's layer, from the cache or made now."""
    store, listener = making.store, making.listener
    layers = [future.result() for future in below]
    started = time.monotonic()
    # A lock that leaves something open asks for what is newest now, not when it was last asked.
    refresh = making.refresh or not is_settled(step)
    layer = None if refresh else store.get(step.digest)
    if layer is not None:
        outcome = f"cached, made {_age(time.time() - layer.created)} ago"
        listener(StepFinished(step.name, time.monotonic() - started, outcome, cached=True))
        return layer
    listener(StepStarted(step.name, "; ".join(why(step, making.order, making.before, refresh=refresh))))
    if refresh:
        store.evict(step.digest)

    def waiting() -> None:
        listener(StepProgress(step.name, "waiting for another build that makes or lays out a layer"))

    with _log(step, store, listener) as output:

        def fill(writer: LayerWriter) -> None:
            workshop = Workshop(
                scratch=store.scratch(),
                downloads=store.downloads(step.inputs.kind),
                lower=merge([layer.tree for layer in layers]),
                progress=lambda message, fraction: listener(StepProgress(step.name, message, fraction)),
                output=output,
                cancelled=store.cancelled,
                sources=making.order.sources,
                below=LowerLayers(
                    trees=[layer.tree for layer in layers],
                    directories=lambda: making.unpacked.directories(layers, waiting),
                    architecture=making.order.architecture,
                    cache=store.cache,
                    keep_failed=(lambda place: store.keep(place, step.name)) if making.keep_failed else None,
                ),
            )
            makers.make(step, workshop, writer)

        layer = store.make(step.name, step.digest, fill, waiting)
    listener(StepFinished(step.name, time.monotonic() - started, f"{len(layer.tree)} files"))
    return layer


@contextlib.contextmanager
def _log(step: Step, store: Store, listener: Listener) -> Iterator[Callable[[str], None]]:
    """Keep what a step's tools print; an error of theirs names the file."""
    path = store.root / "logs" / f"{step.name}.log"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", errors="replace") as log:

        def output(line: str) -> None:
            log.write(line + "\n")
            listener(ToolOutput(step.name, line))

        try:
            yield output
        except BouvetError as error:
            error.details = (*error.details, f"step: {step.name}", f"log: {path}")
            raise


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "a moment"
