"""`bouvet enter`: a shell, or a command, in what a failed step left."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bouvet import pipeline


@click.command("enter")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("argv", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)
def command(directory: Path, argv: tuple[str, ...]) -> None:
    """Look around in what a failed step of 'bouvet build --keep-failed' left.

    DIRECTORY is what the step's error names. Without COMMAND, it is a shell. What is changed there changes
    no image; 'bouvet cache prune --all' removes it.
    """
    sys.exit(pipeline.enter(directory, argv))
