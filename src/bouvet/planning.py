"""Plans shown before they are carried out: which steps run, and why.

<cache>/plans/<digest of name, architecture and directory>.json    the last build's record
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from bouvet.image.output import replacing
from bouvet.layers.store import Store, default_root
from bouvet.order import Order
from bouvet.plan import Step, digest_of
from bouvet.plan.record import Record, reasons, record_of


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step of a plan.

    Attributes:
        name: Its name.
        digest: What its layer is addressed by.
        cached: Whether its layer is there, so that the step does not run.
        reasons: Why it runs, a line each; empty where it is cached.
    """

    name: str
    digest: str
    cached: bool
    reasons: tuple[str, ...]


def explain(order: Order, *, refresh: bool = False, cache: Path | None = None) -> list[PlannedStep]:
    """Return the steps of an order, in order, each with why it would run.

    Args:
        order: What to build.
        refresh: Whether every layer is to be made anew.
        cache: The cache's directory; the user's by default.

    Raises:
        SpecError: Files that the spec names cannot be read.
        CacheError: The cache cannot be opened.
    """
    with Store(cache or default_root()) as store:
        before = last_record(order, store.root)
        cached = {step.name: store.has(step.digest) and not refresh for step in order.steps}
        return [
            PlannedStep(
                step.name,
                step.digest,
                cached[step.name],
                () if cached[step.name] else why(step, order, before, refresh=refresh),
            )
            for step in order.steps
        ]


def why(step: Step, order: Order, before: Record, *, refresh: bool) -> tuple[str, ...]:
    """Return why a step runs, a line each.

    Args:
        step: A step of the order that is not cached, or is to be made anew.
        order: What to build.
        before: The last build's record.
        refresh: Whether every layer is to be made anew.
    """
    if refresh:
        return ("every layer is made anew",)
    return tuple(reasons(step, order.steps, before)) or ("its layer is not in the cache",)


def remember(order: Order, root: Path) -> None:
    """Keep what an order's layers were made from, for the next plan.

    Args:
        order: What was built.
        root: The cache's directory.
    """
    path = _path(order, root)
    path.parent.mkdir(exist_ok=True)
    with replacing(path, mode=0o600) as descriptor, open(descriptor, "w", closefd=False) as file:
        json.dump(record_of(order.steps), file, sort_keys=True)


def last_record(order: Order, root: Path) -> Record:
    """Return the last build's record; an empty one if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_path(order, root).read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def _path(order: Order, root: Path) -> Path:
    which = {
        "name": order.name,
        "architecture": order.architecture,
        "directory": str(order.directory.resolve()),
    }
    return root / "plans" / f"{digest_of(which)[:32]}.json"
