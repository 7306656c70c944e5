"""`bouvet spec`: specs and their schema."""

from __future__ import annotations

import click

from bouvet.cli.options import SpecType, print_json
from bouvet.spec import json_schema, load, presets


@click.group("spec")
def command() -> None:
    """Show specs and their schema."""


@command.command("show")
@click.argument("spec", metavar="[PRESET|FILE.toml]", type=SpecType())
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Replace one value of the spec.")
def show(spec: str, overrides: tuple[str, ...]) -> None:
    """Print a spec as JSON, with every default filled in."""
    print_json(load(spec, overrides).model_dump(mode="json"))


@command.command("schema")
def schema() -> None:
    """Print the JSON schema of specs, for editors and checkers."""
    print_json(json_schema())


@command.command("ls")
def list_presets() -> None:
    """Print the presets' names."""
    for name in presets():
        click.echo(name)
