"""`bouvet slim`: what an image goes without, and why."""

from __future__ import annotations

import dataclasses

import click

from bouvet import slimming
from bouvet.cli.options import image_options, make_order, print_json


@click.command("slim")
@image_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(
    *, spec: str, arch: str | None, name: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Show what SPEC leaves out of its packages: how much each pattern saves, and why nothing needs it.

    To keep what a preset leaves out, name its path in [slim] keep. The image must have been built.
    """
    savings = slimming.savings(make_order(spec, arch, name, overrides))
    savings.sort(key=lambda saving: (-saving.size, saving.path))
    if as_json:
        print_json({"slim": [dataclasses.asdict(saving) for saving in savings]})
        return
    total = sum(saving.size for saving in savings)
    click.echo(f"left out: {_mb(total)} in {sum(saving.files for saving in savings)} files")
    width = max((len(saving.path) for saving in savings), default=0)
    for saving in savings:
        click.echo(f"{_mb(saving.size):>10}  {saving.files:5}  {saving.path:{width}}  {saving.reason}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
