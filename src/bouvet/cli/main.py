"""The `bouvet` command: finds the subcommand, and shows every error in one place."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from types import FrameType

import click

from bouvet.cli.progress import printable
from bouvet.errors import BouvetError

COMMANDS = {
    "init": "Write a commented spec to start with.",
    "build": "Build an image from a preset or a spec.",
    "enter": "Look around in what a failed step of a build left.",
    "lock": "Write down what an image is made of, to build exactly that again.",
    "plan": "Show what a build would do, and why.",
    "oci": "Build an OCI archive for docker load, podman load and skopeo.",
    "verify": "Check an image against what it must be.",
    "inspect": "Show what is in an image, and what takes how much.",
    "slim": "Show what an image goes without, and why.",
    "diff": "Show how two images differ.",
    "run": "Run a command or code in a throw-away virtual machine.",
    "boot": "Boot an image with its console on the terminal.",
    "spec": "Show specs and their schema.",
    "kernel": "List, fetch and show kernels to boot images with.",
    "cache": "List and prune cached layers.",
    "completion": "Print a shell's completion script.",
}
"""The subcommands; each is `command` in the module of its name, which is imported when it is used."""

EPILOG = """
\b
Exit status: 0 done, 1 an error, 2 wrong usage or spec, 3 a program is missing, 4 a program failed,
5 a layer failed, 6 the cache, 7 the image, 8 a format, 9 verification failed, 10 the virtual machine,
11 the guest's agent, 12 the kernel, 13 a download, 14 the lock, 130 interrupted. 'bouvet run' passes the
command's own status on; 'bouvet diff' ends with 1 where the images differ.
"""


class _Lazy(click.Group):
    """A group whose commands are imported when they are needed: starting must not wait for all."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"bouvet.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bouvet", message="bouvet %(version)s")
def cli() -> None:
    """Builds bootable disk images for microVMs, and proves that they work by booting them."""


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    # A build makes hundreds of thousands of objects that stay: looking through them again and again for
    # cycles would be a sixth of its time.
    gc.set_threshold(50_000, 20, 100)
    try:
        status = cli.main(prog_name="bouvet", standalone_mode=False)
    except BouvetError as error:
        show(error)
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("bouvet: interrupted; nothing was left half-written", err=True)
        status = 130
    except BrokenPipeError:
        # Nobody reads what is printed any more; Python must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status if isinstance(status, int) else 0)


def show(error: BouvetError) -> None:
    """Print an error: what happened, the evidence, what to do.

    Message and details may quote a guest, which shall not play tricks with the terminal.
    """
    message = printable(error.message)
    click.echo(click.style("bouvet: ", bold=True) + click.style(message, fg="red"), err=True)
    for line in error.details:
        click.echo(f"  {printable(line)}", err=True)
    if error.hint:
        click.echo(click.style("  hint: ", bold=True) + error.hint, err=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    """End as for Ctrl-C, so that everything is cleaned up."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)
