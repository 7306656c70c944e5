"""`bouvet diff`: how two images differ."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet import inspecting, pipeline
from bouvet.cli.options import print_json
from bouvet.cli.progress import printable
from bouvet.inspecting import Comparison


@click.command("diff")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def command(*, first: Path, second: Path, as_json: bool) -> int:
    """Show how the image SECOND differs from FIRST: packages, files, size.

    A line begins with + for what is only in SECOND, - for what is only in FIRST, and ~ for what differs.
    The exit status is 0 when nothing differs, 1 when something does, and more than 1 for an error.
    """
    comparison = inspecting.compare(first, second)
    if as_json:
        print_json({"equal": comparison.equal, **pipeline.as_json(comparison)})
    else:
        _show(comparison)
    return 0 if comparison.equal else 1


def _show(comparison: Comparison) -> None:
    lines = [f"~ {each.what} {each.before} -> {each.after}" for each in comparison.image]
    for package in comparison.packages:
        sign = "~" if package.before and package.after else "+" if package.after else "-"
        versions = " -> ".join(" ".join(each) for each in (package.before, package.after) if each)
        lines.append(f"{sign} {package.kind} {package.name} {versions}")
    files = [(path, f"- {path}") for path in comparison.removed]
    files += [(path, f"+ {path}") for path in comparison.added]
    files += [(each.path, f"~ {each.path}: {', '.join(each.aspects)}") for each in comparison.changed]
    lines += [line for _, line in sorted(files)]
    for line in lines:
        click.echo(printable(line))
