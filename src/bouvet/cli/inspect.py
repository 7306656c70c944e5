"""`bouvet inspect`: what is in an image, and what takes how much."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from bouvet import inspecting, pipeline
from bouvet.cli.options import print_json
from bouvet.cli.progress import printable
from bouvet.inspecting import Contents


@click.command("inspect")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything, all packages too, as JSON.")
@click.option(
    "--sbom",
    type=click.Choice(["cyclonedx", "spdx"]),
    help="Print a software bill of materials instead: CycloneDX 1.5 or SPDX 2.3, as JSON.",
)
@click.option(
    "--rows",
    type=click.IntRange(1, 100_000),
    default=inspecting.ROWS,
    show_default=True,
    help="How many directories, files and packages are shown.",
)
def command(*, image: Path, as_json: bool, sbom: inspecting.BillForm | None, rows: int) -> None:
    """Show what is in IMAGE: size by directory, package and layer, and the largest files.

    The image is read, neither mounted nor booted, and needs no root.
    """
    contents = inspecting.inspect(image, rows=rows)
    if sbom is not None:
        print_json(inspecting.bill_of_materials(contents, sbom))
    elif as_json:
        print_json(pipeline.as_json(contents))
    else:
        _show(contents, rows)


def _show(contents: Contents, rows: int) -> None:
    kinds = sorted({package.kind for package in contents.packages})
    counts = [f"{sum(p.kind == kind for p in contents.packages)} {kind}" for kind in kinds]
    about = [
        f"{contents.image}: {_mib(contents.size)}",
        f"{contents.files} files of {_mib(contents.stored)}",
        f"packages: {', '.join(counts) or 'none'}",
    ]
    click.echo("; ".join(about))
    if contents.name:
        click.echo(printable(f"{contents.name} for {contents.architecture}"))
    _table("layer", ((layer.name, layer.size) for layer in contents.layers))
    _table("directory", ((each.name, each.size) for each in contents.directories))
    packages = sorted(contents.packages, key=lambda each: (-each.size, each))[:rows]
    named: list[tuple[str, int | None]] = [(f"{p.kind} {p.name} {p.version}", p.size) for p in packages]
    _table("package", [*named, ("(in no package)", contents.unpackaged)])
    _table("file", ((each.name, each.size) for each in contents.largest))
    for path in contents.unread:
        click.echo(printable(f"not understood: {path}"), err=True)


def _table(title: str, rows: Iterable[tuple[str, int | None]]) -> None:
    lines = [f"{_mib(size):>14}  {printable(name)}" for name, size in rows]
    if lines:
        click.echo(f"\n{'size':>14}  {title}")
        click.echo("\n".join(lines))


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / (1 << 20):.1f} MiB"
