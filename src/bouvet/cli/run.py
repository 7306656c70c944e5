"""`bouvet run`: a command or code in a throw-away machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bouvet import booting, pipeline, running
from bouvet.cli.copying import COPY, Copy, download_all, upload_all
from bouvet.cli.machine_options import IMAGE, boot_options, machine_options
from bouvet.cli.options import output_options, print_json
from bouvet.cli.progress import progress
from bouvet.sandbox import CommandDetails, CommandOptions, Ending, ProcessOptions, RequestRefused, Sandbox

TIMED_OUT = 124
"""The exit status of a command that took too long, as of timeout(1)."""

NOT_STARTED = 127
"""The exit status of a command that the guest could not start."""

LANGUAGES = ("python", "node", "bash", "sh", "rust")

LOGIN_SHELL = 'exec "${SHELL:-/bin/sh}" -l'
"""What runs on a terminal when nothing else is named."""

EPILOG = """
\b
Examples:
  bouvet run devbox.ext4 -- python3 --version
  bouvet run devbox.ext4 --lang node -c 'console.log(6 * 7)'
  bouvet run -it devbox.ext4
  tar c src | bouvet run devbox.ext4 --env LANG --timeout 60 -- tar tv
"""


class EnvironmentType(click.ParamType[tuple[str, str]]):
    """NAME=VALUE, or NAME for the value that it has here."""

    name = "variable"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return name and value, or fail with what is wrong."""
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not name or "\0" in value:
            self.fail(f"'{value}' names no variable", param, ctx)
        if not equals and name not in os.environ:
            self.fail(f"'{name}' is not set here", param, ctx)
        return name, content if equals else os.environ[name]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Return the variables that are set here."""
        del ctx, param
        return [
            click.shell_completion.CompletionItem(n) for n in sorted(os.environ) if n.startswith(incomplete)
        ]


def command_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what is said of the command that runs."""
    for decorate in reversed(
        [
            click.option("-i", "--interactive", is_flag=True, help="Pass a terminal's input on too."),
            click.option("-t", "--tty", is_flag=True, help="Give the command a terminal of its own."),
            click.option("--lang", type=click.Choice(LANGUAGES), help="Run code in this language."),
            click.option(
                "-c",
                "code",
                metavar="CODE",
                help="The code, with --lang; else SCRIPT is read, or standard input.",
            ),
            click.option(
                "--env",
                "-e",
                "environment",
                multiple=True,
                type=EnvironmentType(),
                metavar="NAME[=VALUE]",
                help="Set a variable; without a value, to what it is here.",
            ),
            click.option("--cwd", "-w", metavar="DIR", help="The directory that the command starts in."),
            click.option(
                "--user", "-u", metavar="USER", help="Who runs it: a guest's user, by name or number."
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.001),
                help="Seconds after which the command is ended, with all that it has started.",
            ),
            click.option(
                "--upload",
                type=COPY,
                multiple=True,
                metavar="HOST:GUEST",
                help="Copy a file or a directory into the machine before.",
            ),
            click.option(
                "--download",
                type=COPY,
                multiple=True,
                metavar="GUEST:HOST",
                help="Copy a file or a directory out of it afterwards.",
            ),
            click.option(
                "--wait-system", is_flag=True, help="Wait until the guest's systemd has started everything."
            ),
            click.option("--keep", is_flag=True, help="Keep the machine until it ends itself, or Ctrl-C."),
        ]
    ):
        command = decorate(command)
    return command


@click.command("run", epilog=EPILOG)
@IMAGE
@click.argument("arguments", nargs=-1, metavar="[-- CMD...] | [SCRIPT [ARG...]]")
@command_options
@machine_options
@output_options
def command(
    *,
    image: Path,
    arguments: tuple[str, ...],
    lang: str | None,
    code: str | None,
    interactive: bool,
    tty: bool,
    wait_system: bool,
    upload: tuple[Copy, ...],
    download: tuple[Copy, ...],
    keep: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **more: Any,
) -> int:
    """Boot IMAGE in a throw-away machine, run CMD in it, and destroy it.

    CMD reads this command's standard input, unless that is a terminal; with -i also then. Its output is
    passed on as it comes, and so is its exit status, which is 124 if CMD took longer than --timeout, and 127
    if it could not be started. Ctrl-C interrupts CMD and ends the machine. CMD is a program with its
    arguments; for a shell's line use 'sh -c LINE'. With -it, CMD has a terminal, and is a login shell if not
    given. With --lang, CODE, the file SCRIPT or standard input is run instead.

    The agent in the guest answers before systemd has started anything: a CMD that needs the network or
    another service needs --wait-system.
    """
    _check_usage(lang, code, arguments, tty=tty, interactive=interactive, as_json=as_json)
    source, arguments = _code(code, arguments) if lang else ("", arguments)
    with contextlib.ExitStack() as stack:
        # The progress is over before the first byte of output: both may be on one terminal.
        with progress(quiet=quiet, verbose=verbose) as listener:
            booted = booting.boot(image, boot_options(more), listener=listener)
            sandbox = stack.enter_context(booted)
            if wait_system:
                booting.await_system(sandbox, more["boot_timeout"], listener=listener)
            upload_all(sandbox, upload, listener)
        try:
            if lang is not None:
                status = _run_code(sandbox, lang, source, arguments, more, stdin=interactive, as_json=as_json)
            else:
                status = _run_command(
                    sandbox, arguments, more, interactive=interactive, tty=tty, as_json=as_json
                )
        except RequestRefused as refusal:
            click.echo(f"bouvet: the command could not be started: {refusal.message}", err=True)
            status = NOT_STARTED
        with progress(quiet=quiet, verbose=verbose) as listener:
            download_all(sandbox, download, listener)
        if keep:
            _keep(sandbox)
    return status


def _run_command(
    sandbox: Sandbox,
    arguments: tuple[str, ...],
    more: dict[str, Any],
    *,
    interactive: bool,
    tty: bool,
    as_json: bool,
) -> int:
    """Run a program with its streams connected to ours; return its status."""
    stdin = _standard_input(even_terminal=interactive)
    environment = dict(more["environment"])
    if tty:
        environment = {"TERM": os.environ.get("TERM", "xterm"), **environment}
    options = ProcessOptions(
        cwd=more["cwd"],
        environment=environment,
        user=_user(more["user"]),
        time_limit=more["timeout"],
        stdin=stdin is not None,
        terminal=running.terminal_size(sys.stdin.fileno()) if tty else None,
    )
    what: str | Sequence[str] = arguments or LOGIN_SHELL
    if as_json:
        ending, collected = running.collect(sandbox, what, options, stdin)
        _print_result(sandbox, ending, collected)
    else:
        streams = running.Streams(stdin, sys.stdout.fileno(), sys.stderr.fileno())
        ending = running.run_attached(sandbox, what, options, streams)
    return _status(ending, more["timeout"])


def _run_code(
    sandbox: Sandbox,
    lang: str,
    source: str,
    arguments: tuple[str, ...],
    more: dict[str, Any],
    *,
    stdin: bool,
    as_json: bool,
) -> int:
    """Run code, print its output when it has ended, and return its status."""
    options = CommandOptions(
        arguments=arguments,
        cwd=more["cwd"],
        environment=dict(more["environment"]),
        stdin=sys.stdin.buffer.read() if stdin else None,
        user=_user(more["user"]),
        time_limit=more["timeout"],
        max_output=running.COLLECTED_LIMIT,
    )
    result = sandbox.run_code(lang, source, options)
    assert result.details is not None
    details = result.details
    if as_json:
        _print_result(sandbox, details.ending, details)
    else:
        click.echo(details.stdout, nl=False)
        click.echo(details.stderr, nl=False, err=True)
    return _status(details.ending, more["timeout"])


def _print_result(sandbox: Sandbox, ending: Ending, output: running.Collected | CommandDetails) -> None:
    streams = {"stdout": output.stdout, "stderr": output.stderr}
    text: dict[str, Any] = {name: data.decode(errors="replace") for name, data in streams.items()}
    more = {"truncated": output.truncated, "timings": pipeline.as_json(sandbox.timings)}
    print_json(pipeline.as_json(ending) | text | more)


def _status(ending: Ending, timeout: float | None) -> int:
    if ending.timed_out:
        click.echo(f"bouvet: the command took longer than {timeout:g} s", err=True)
        return TIMED_OUT
    return ending.exit_code if ending.exit_code >= 0 else NOT_STARTED


def _standard_input(*, even_terminal: bool) -> int | None:
    """Return the descriptor that is passed on; None if it is a terminal's, and that was not asked for."""
    if sys.stdin is None or (sys.stdin.isatty() and not even_terminal):
        return None
    return sys.stdin.fileno()


def _user(user: str | None) -> str | int | None:
    return int(user) if user is not None and user.isdigit() else user


def _check_usage(
    lang: str | None,
    code: str | None,
    arguments: tuple[str, ...],
    *,
    tty: bool,
    interactive: bool,
    as_json: bool,
) -> None:
    """Complain about what does not go together."""
    wrong = {
        "-c needs --lang": lang is None and code is not None,
        "name a command after '--', code by --lang, or -it for a shell": not (lang or arguments or tty),
        "--json is no output for a terminal": tty and as_json,
        "--lang gives no terminal; name the language's program after '--'": bool(lang) and tty,
        "standard input can be the code, or be read by it, not both": bool(lang)
        and interactive
        and not arguments
        and code is None,
    }
    for message, is_so in wrong.items():
        if is_so:
            raise click.UsageError(message)


def _code(code: str | None, arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the code to run, and its arguments."""
    if code is not None:
        return code, arguments
    try:
        if not arguments:
            return sys.stdin.read(), ()
        return Path(arguments[0]).read_text(encoding="utf-8"), arguments[1:]
    except OSError as error:
        raise click.UsageError(f"cannot read {arguments[0]}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the code is not UTF-8 text: {error}") from error


def _keep(sandbox: Sandbox) -> None:
    click.echo(f"machine {sandbox.machine.machine_id} is kept: {sandbox.machine.socket_path}", err=True)
    click.echo("it ends with Ctrl-C", err=True)
    sandbox.machine.wait()
