"""Options of the commands that start a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bouvet.booting import READY_SECONDS, BootOptions
from bouvet.cli.options import Command, SizeType

IMAGE = click.argument(
    "image", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True), metavar="IMAGE"
)


def machine_options(command: Command) -> Command:
    """Add what a machine is made of."""
    for decorate in reversed(
        [
            click.option(
                "--mem", type=SizeType(), default="512M", show_default=True, help="The guest's memory."
            ),
            click.option(
                "--cpus", type=click.IntRange(1, 64), default=1, show_default=True, help="Its processors."
            ),
            click.option(
                "--disk", type=SizeType(), help="Its disk's size; 2 GiB more than the image if not given."
            ),
            click.option(
                "--net", is_flag=True, help="Give it a network card, behind the host's own network."
            ),
            click.option(
                "--kernel",
                help="debian, file:PATH or url:URL#sha256=DIGEST; what the image's spec says if not given.",
            ),
            click.option(
                "--append", multiple=True, metavar="WORD", help="A word for the kernel's command line."
            ),
            click.option("--id", "machine_id", help="The machine's id: its sockets are in /tmp/bouvet/ID."),
            click.option(
                "--boot-timeout",
                type=click.FloatRange(min=0.1),
                default=READY_SECONDS,
                show_default=True,
                help="Seconds within which the guest's agent has to answer.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def boot_options(options: dict[str, Any]) -> BootOptions:
    """Return what `machine_options` asks for."""
    return BootOptions(
        memory=options["mem"],
        cpus=options["cpus"],
        disk=options["disk"],
        network=options["net"],
        kernel=options["kernel"],
        kernel_arguments=tuple(options["append"]),
        machine_id=options["machine_id"],
        ready=options["boot_timeout"],
    )
