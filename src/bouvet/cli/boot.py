"""`bouvet boot`: an image with its console on the terminal."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from bouvet import boot_timings, booting, pipeline
from bouvet.cli.machine_options import IMAGE, boot_options, machine_options
from bouvet.cli.options import output_options, print_json
from bouvet.cli.progress import printable, progress


@click.command("boot")
@IMAGE
@click.option("--timings", is_flag=True, help="Boot, print how long each part took, and end.")
@click.option(
    "--svg",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="With --timings: draw them too, with each unit of systemd.",
)
@machine_options
@output_options
def command(
    *, image: Path, timings: bool, svg: Path | None, as_json: bool, quiet: bool, verbose: bool, **machine: Any
) -> None:
    """Boot IMAGE with its serial console on the terminal. Ctrl-] ends the machine.

    The image is not changed: what the guest writes is gone at the end.
    """
    if svg is not None and not timings:
        raise click.UsageError("--svg draws what --timings measures: add it")
    options = boot_options(machine)
    with contextlib.ExitStack() as stack:
        with progress(quiet=quiet, verbose=verbose) as listener:
            if timings:
                sandbox = stack.enter_context(booting.boot(image, options, listener=listener))
            else:
                running = stack.enter_context(booting.start_machine(image, options, listener=listener))
        if timings:
            report = boot_timings.timings_report(sandbox)
            if svg is not None:
                # Only this needs XML.
                from bouvet.pictures import draw_boot  # noqa: PLC0415

                draw_boot(svg, image.name, report)
            _print_timings(report, as_json=as_json)
            return
        if sys.stdin.isatty():
            click.echo(f"machine {running.machine_id}; Ctrl-] ends it\r", err=True)
        left = booting.use_console(running, sys.stdin.fileno(), sys.stdout.fileno())
    click.echo(f"\r\n{left}", err=True)


def _print_timings(report: boot_timings.TimingReport, *, as_json: bool) -> None:
    if as_json:
        print_json(pipeline.as_json(report))
        return
    click.echo(f"{'':24}{'host':>12}{'guest':>12}")
    for row in report.rows:
        host = "" if row.host is None else f"{row.host:9.3f} s"
        guest = "" if row.guest is None else f"{row.guest:9.3f} s"
        click.echo(f"{row.name:24}{host:>12}{guest:>12}".rstrip())
    for line in report.units:
        click.echo(printable(line))
