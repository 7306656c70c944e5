"""`bouvet oci`: an image as an archive for container tools."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet import exporting, pipeline
from bouvet.cli.options import (
    as_locked,
    locked_options,
    make_order,
    order_options,
    output_options,
    print_json,
)
from bouvet.cli.progress import progress
from bouvet.errors import SpecError


@click.command("oci")
@order_options
@locked_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("images/output"),
    show_default=True,
    help="A directory, or a file that ends in .tar.",
)
@output_options
def command(
    *,
    spec: str,
    arch: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    refresh: bool,
    locked: bool,
    lock: Path | None,
    output: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Build an OCI archive from a preset or a spec file, one layer a step, or from a finished image.

    A finished image is a file that ends in .ext4; it becomes one layer.

    OUTPUT/NAME.tar is an OCI archive and a docker-archive at once: 'docker load', 'podman load' and
    skopeo (oci-archive: and docker-archive:) take it.
    """
    if Path(spec).suffix == ".ext4":
        if arch is not None or overrides or refresh or locked:
            raise SpecError(
                "a finished image is taken as it is: leave out --arch, --set, --refresh and --locked"
            )
        order, title = None, name or f"bouvet-{Path(spec).stem}"
    else:
        order = as_locked(make_order(spec, arch, name, overrides), spec, locked=locked, lock=lock)
        title = order.name
    target = output if output.suffix == ".tar" else output / f"{Path(title).name}.tar"
    with progress(quiet=quiet, verbose=verbose) as listener:
        if order is None:
            result = exporting.export_image(Path(spec), target, name=title, listener=listener)
        else:
            result = exporting.export(order, target, refresh=refresh, listener=listener)
    if as_json:
        print_json(pipeline.as_json(result))
    else:
        click.echo(result.archive)
