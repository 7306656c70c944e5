"""`bouvet cache`: the cached layers."""

from __future__ import annotations

import dataclasses
import time

import click

from bouvet.cli.options import print_json
from bouvet.pipeline import cached_layers, default_root, prune_cache


@click.group("cache")
def command() -> None:
    """List and prune cached layers ($XDG_CACHE_HOME/bouvet)."""


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def list_layers(as_json: bool) -> None:
    """List the cached layers, the last used first."""
    entries = cached_layers()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        click.echo(f"{entry.digest[:12]}  {entry.size / (1 << 20):8.1f} MiB  used {used}  {entry.name}")
    total = sum(entry.size for entry in entries)
    click.echo(f"{len(entries)} layers, {total / (1 << 20):.1f} MiB in {default_root()}", err=True)


@command.command("prune")
@click.option(
    "--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Keep what was used since."
)
@click.option("--all", "everything", is_flag=True, help="Keep nothing that is not in use.")
@click.option("--downloads", is_flag=True, help="Remove the kept downloads too.")
@click.option("--json", "as_json", is_flag=True, help="Print the removed rows as JSON.")
def prune(days: float, everything: bool, downloads: bool, as_json: bool) -> None:
    """Remove layers that were not used for some time. Layers in use are kept."""
    removed, freed = prune_cache(0.0 if everything else days * 86400, downloads=downloads)
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in removed])
    else:
        click.echo(f"removed {len(removed)} layers; {freed / (1 << 20):.1f} MiB are free again")
