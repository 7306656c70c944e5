"""`bouvet build`: an image from a preset or a spec."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bouvet import pipeline
from bouvet.cli.options import (
    SizeType,
    as_locked,
    locked_options,
    make_order,
    order_options,
    output_options,
    print_json,
    stem,
)
from bouvet.cli.progress import printable, progress

FORMATS = ("ext4", "squashfs", "erofs", "tar", "qcow2")


@click.command("build")
@order_options
@locked_options
@click.option(
    "--size", type=SizeType(), help="The final size, for example 2500M; what is needed if not given."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("images/output"),
    show_default=True,
    help="A directory, or a file that ends in .ext4; other formats have other endings.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="What to write, may be given several times; what the spec says if not given, which is ext4.",
)
@click.option("--timings", is_flag=True, help="Say when each step ran, and what it waited for.")
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE.svg",
    help="Draw the same: a timeline of the steps.",
)
@click.option("--keep-failed", is_flag=True, help="Keep what a failed step left, for 'bouvet enter'.")
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
    size: int | None,
    output: Path,
    formats: tuple[str, ...],
    timings: bool,
    profile: Path | None,
    keep_failed: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Build an image from a preset ('devbox', 'base') or a spec file.

    The image is OUTPUT/debian-PRESET.ext4, with the guest agent's binary beside it; other formats of it are
    OUTPUT/debian-PRESET.FORMAT. What was built
    before is taken from the cache; an image that is up to date is left alone.
    """
    if formats:
        overrides = (*overrides, f"formats={json.dumps(formats)}")
    order = as_locked(make_order(spec, arch, name, overrides, size), spec, locked=locked, lock=lock)
    target = output if output.suffix == ".ext4" else output / f"debian-{stem(spec)}.ext4"
    with progress(quiet=quiet, verbose=verbose) as listener:
        result = pipeline.build(order, target, refresh=refresh, keep_failed=keep_failed, listener=listener)
    if profile is not None:
        # Only this needs XML.
        from bouvet.pictures import draw_build  # noqa: PLC0415

        draw_build(profile, order.name, result)
    if as_json:
        print_json(pipeline.as_json(result))
    else:
        for image in (result.image, *result.others):
            click.echo(image)
        if result.agent is not None:
            click.echo(result.agent)
        if timings:
            _print_timings(result)


def _print_timings(result: pipeline.BuildResult) -> None:
    """Print a table to standard error: what is on standard output are paths."""
    width = max(len(timing.step) for timing in result.timings)
    lines = [f"{'':{width}} {'start':>9} {'took':>9} {'waited':>9}"]
    for timing in result.timings:
        line = f"{timing.step:{width}} {timing.start:7.2f} s {timing.seconds:7.2f} s "
        told = [f"for {timing.waited_for}"] if timing.waited_for else []
        told += ["cached"] if timing.cached else []
        lines.append(
            line + (f"{timing.waited:7.2f} s" if timing.waited_for else f"{'':9}") + f"  {', '.join(told)}"
        )
    for line in lines:
        click.echo(printable(line.rstrip()), err=True)
