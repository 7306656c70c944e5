"""`bouvet lock`: what an image is made of, written down."""

from __future__ import annotations

from pathlib import Path

import click
import click.shell_completion

from bouvet import locking
from bouvet.cli.options import (
    DEFAULT_PRESET,
    image_options,
    lock_of,
    lock_option,
    make_order,
    output_options,
    print_json,
    stem,
)
from bouvet.cli.progress import progress
from bouvet.errors import BouvetError, SpecError
from bouvet.pipeline import as_json as json_of
from bouvet.spec import directory_of


class LockedType(click.ParamType[str]):
    """A name of what is locked; completes those of the lock."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Return the names in the lock that the command line means; none if it cannot be read."""
        del param
        spec = str(ctx.params.get("spec") or DEFAULT_PRESET)
        try:
            found = locking.locked_names(
                ctx.params.get("lock") or directory_of(spec) / locking.FILE_NAME, stem(spec)
            )
        except BouvetError:
            return []
        return [click.shell_completion.CompletionItem(each) for each in found if each.startswith(incomplete)]


@click.command("lock")
@image_options
@click.argument("names", nargs=-1, type=LockedType())
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
