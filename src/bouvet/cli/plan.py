"""`bouvet plan`: what a build would do, and why."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet import planning
from bouvet.cli.options import as_locked, locked_options, make_order, order_options, print_json
from bouvet.pipeline import as_json


@click.command("plan")
@order_options
@locked_options
@click.option("--json", "as_json_", is_flag=True, help="Print the plan as JSON.")
def command(
    *,
    spec: str,
    arch: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    refresh: bool,
    locked: bool,
    lock: Path | None,
    as_json_: bool,
) -> None:
    """Show the steps of a build: which layers are cached, and why the others would be made.

    The reasons are what differs from the last build of the same name. Nothing is built.
    """
    order = as_locked(make_order(spec, arch, name, overrides), spec, locked=locked, lock=lock)
    steps = planning.explain(order, refresh=refresh)
    if as_json_:
        print_json({"steps": [as_json(step) for step in steps]})
        return
    width = max(len(step.name) for step in steps)
    for step in steps:
        state = "cached" if step.cached else "runs: " + "; ".join(step.reasons)
        click.echo(f"{step.name:{width}}  {step.digest[:12]}  {state}")
