"""`bouvet lock`: what an image is made of, written down."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet import locking
from bouvet.cli.options import (
    image_options,
    lock_of,
    lock_option,
    make_order,
    output_options,
    print_json,
    stem,
)
from bouvet.cli.progress import progress
from bouvet.errors import SpecError
from bouvet.pipeline import as_json as json_of


@click.command("lock")
@image_options
@click.argument("names", nargs=-1)
@click.option(
    "--update",
    is_flag=True,
    help="Take the newest of everything, or of the NAMES alone: of packages, of steps, or 'kernel'.",
)
@lock_option
@output_options
def command(
    *,
    spec: str,
    arch: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    names: tuple[str, ...],
    update: bool,
    lock: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Write down what an image is made of: names, versions and digests of all packages.

    'bouvet build --locked' takes exactly that. A lock has several specs and architectures; the others stay.
    What was locked before stays too, unless the spec does not ask for it any more, or --update says so.
    """
    if names and not update:
        raise SpecError(f"what shall be done with {', '.join(names)}?", hint="--update takes names")
    order = make_order(spec, arch, name, overrides)
    with progress(quiet=quiet, verbose=verbose) as listener:
        result = locking.write_lock(
            order, stem(spec), lock_of(order, lock), update=names if update else None, listener=listener
        )
    if as_json:
        print_json(json_of(result))
        return
    for change in result.changes:
        click.echo(change)
    click.echo(f"{result.path}: {result.artifacts} artifacts")
