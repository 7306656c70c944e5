"""`bouvet init`: a spec to start with."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet.errors import SpecError
from bouvet.spec import starter


@click.command("init")
@click.argument("file", metavar="[FILE.toml]", type=click.Path(path_type=Path), default=Path("bouvet.toml"))
def command(file: Path) -> None:
    """Write a commented spec to start with, to FILE (bouvet.toml).

    A file that is there is left alone.
    """
    if file.suffix != ".toml":
        raise SpecError(f"a spec's name ends in .toml, and '{file}' does not")
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(starter())
    except FileExistsError:
        raise SpecError(f"{file} is there already", hint="name another file, or remove it first") from None
    except OSError as error:
        raise SpecError(f"cannot write {file}: {error.strerror}") from error
    click.echo(file)
