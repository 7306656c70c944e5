"""`bouvet oci`: an image as an archive for container tools."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet import pipeline
from bouvet.cli.options import make_order, order_options, output_options, print_json
from bouvet.cli.progress import progress


@click.command("oci")
@order_options
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
    output: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Build an OCI archive, one layer a step, from a preset or a spec file.

    OUTPUT/NAME.tar is an OCI archive and a docker-archive at once: 'docker load', 'podman load' and
    skopeo (oci-archive: and docker-archive:) take it.
    """
    order = make_order(spec, arch, name, overrides)
    target = output if output.suffix == ".tar" else output / f"{Path(order.name).name}.tar"
    with progress(quiet=quiet, verbose=verbose) as listener:
        result = pipeline.export(order, target, refresh=refresh, listener=listener)
    if as_json:
        print_json(pipeline.as_json(result))
    else:
        click.echo(result.archive)
