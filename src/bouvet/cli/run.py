"""`bouvet run`: a command or code in a throw-away machine."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from bouvet import booting, pipeline
from bouvet.cli.machine_options import IMAGE, boot_options, machine_options
from bouvet.cli.options import output_options, print_json
from bouvet.cli.progress import progress
from bouvet.sandbox import CallTimeout, Sandbox

TIMED_OUT = 124
"""The exit status of a command that took too long, as of timeout(1)."""

NOT_STARTED = 127
"""The exit status of a command that the guest could not start."""

MAX_STATUS = 255

LANGUAGES = ("python", "node", "bash", "sh", "rust")


@click.command("run")
@IMAGE
@click.argument("arguments", nargs=-1, metavar="[-- CMD...] | [SCRIPT]")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Run code in this language.")
@click.option(
    "-c", "code", metavar="CODE", help="The code, with --lang; else SCRIPT is read, or standard input."
)
@click.option("--timeout", type=click.FloatRange(min=0.001), help="Seconds that the command may take.")
@click.option("--keep", is_flag=True, help="Keep the machine until it ends itself, or Ctrl-C.")
@machine_options
@output_options
def command(
    *,
    image: Path,
    arguments: tuple[str, ...],
    lang: str | None,
    code: str | None,
    timeout: float | None,
    keep: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **machine: Any,
) -> int:
    r"""Boot IMAGE in a throw-away machine, run CMD in it, and destroy it.

    CMD's output (the first 1 MiB of each stream) and exit status are passed on; the status is 124 if CMD
    took longer than --timeout, and 127 if it could not be started. CMD is a program with its arguments;
    for a shell's line use 'sh -c LINE'. It reads nothing from standard input. With --lang, CODE, the file
    SCRIPT or standard input is run instead.

    \b
    bouvet run devbox.ext4 -- python3 --version
    bouvet run devbox.ext4 --lang node -c 'console.log(6 * 7)'
    """
    source = _code(lang, code, arguments)
    with contextlib.ExitStack() as stack:
        # The progress is over before the first byte of output: both may be on one terminal.
        with progress(quiet=quiet, verbose=verbose) as listener:
            booted = booting.boot(image, boot_options(machine), listener=listener)
            sandbox = stack.enter_context(booted)
        try:
            if lang is not None:
                result = sandbox.run_code(lang, source, timeout=timeout)
            else:
                # exec: CMD is a program, never a word of the shell's own, and gets the signals itself.
                result = sandbox.run(f"exec {shlex.join(arguments)}", timeout=timeout)
        except CallTimeout:
            click.echo(f"bouvet: the command took longer than {timeout:g} s", err=True)
            return TIMED_OUT
        if as_json:
            print_json(pipeline.as_json(result) | {"timings": pipeline.as_json(sandbox.timings)})
        else:
            # As bytes: a guest may send what no terminal's encoding has.
            click.echo(result.stdout.encode(errors="replace"), nl=False)
            click.echo(result.stderr.encode(errors="replace"), nl=False, err=True)
        if keep:
            _keep(sandbox)
    return result.exit_code if 0 <= result.exit_code <= MAX_STATUS else NOT_STARTED


def _code(lang: str | None, code: str | None, arguments: tuple[str, ...]) -> str:
    """Return the code to run, or complain about arguments that do not go together."""
    if lang is None:
        if code is not None:
            raise click.UsageError("-c needs --lang")
        if not arguments:
            raise click.UsageError("name a command after '--', or a language by --lang")
        return ""
    if code is not None and arguments:
        raise click.UsageError("give the code by -c or in a file, not both")
    if len(arguments) > 1:
        raise click.UsageError("--lang takes one script")
    if code is not None:
        return code
    try:
        return Path(arguments[0]).read_text(encoding="utf-8") if arguments else sys.stdin.read()
    except OSError as error:
        raise click.UsageError(f"cannot read {arguments[0]}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the code is not UTF-8 text: {error}") from error


def _keep(sandbox: Sandbox) -> None:
    click.echo(f"machine {sandbox.machine.machine_id} is kept: {sandbox.machine.socket_path}", err=True)
    click.echo("it ends with Ctrl-C", err=True)
    sandbox.machine.wait()
