"""Options that several commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bouvet.errors import SpecError
from bouvet.locking import FILE_NAME, locked_order
from bouvet.pipeline import Order
from bouvet.plan import ARCHITECTURES, host_architecture
from bouvet.spec import Spec, directory_of, load, parse_size, presets

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PRESET = "devbox"


class SizeType(click.ParamType[int]):
    """A size in bytes, or with a unit: 2500M."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the size in bytes, or fail with what is wrong."""
        try:
            return parse_size(int(value) if str(value).isdigit() else value)
        except ValueError as error:
            self.fail(f"'{value}' {error}", param, ctx)


class SpecType(click.ParamType[str]):
    """A preset's name or a spec file; completes both."""

    name = "spec"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Return the presets, or let the shell complete a file's name."""
        del ctx, param
        found = [click.shell_completion.CompletionItem(n) for n in presets() if n.startswith(incomplete)]
        return found or [click.shell_completion.CompletionItem(incomplete, type="file")]


def image_options(command: Command) -> Command:
    """Add what says which image is meant."""
    for decorate in reversed(
        [
            click.argument("spec", metavar="[PRESET|FILE.toml]", default=DEFAULT_PRESET, type=SpecType()),
            click.option(
                "--arch",
                type=click.Choice(ARCHITECTURES),
                help="The image's architecture; the host's if not given.",
            ),
            click.option("--name", help="The image's name in its manifest; bouvet-PRESET if not given."),
            click.option(
                "--set",
                "overrides",
                metavar="KEY=VALUE",
                multiple=True,
                help="Replace one value of the spec.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def order_options(command: Command) -> Command:
    """Add what says which image is meant, and whether its layers are made anew."""
    refresh = click.option("--refresh", is_flag=True, help="Make every layer anew, whatever the cache has.")
    return image_options(refresh(command))


def lock_option(command: Command) -> Command:
    """Add what says which file the lock is."""
    return click.option(
        "--lock",
        "lock",
        type=click.Path(path_type=Path),
        help=f"The lock; {FILE_NAME} beside the spec if not given, or in the working directory for a preset.",
    )(command)


def locked_options(command: Command) -> Command:
    """Add what says that a lock is used."""
    locked = click.option("--locked", is_flag=True, help="Take exactly what the lock says, or fail.")
    return locked(lock_option(command))


def lock_of(order: Order, lock: Path | None) -> Path:
    """Return the path of the lock that an order's options mean."""
    return lock or order.directory / FILE_NAME


def as_locked(order: Order, spec: str, *, locked: bool, lock: Path | None) -> Order:
    """Return the order that the options of `locked_options` ask for.

    Raises:
        SpecError: A lock is named and not used.
        LockError: There is no lock, or it does not fit the spec.
    """
    if not locked:
        if lock is not None:
            raise SpecError("--lock names a lock that is not used", hint="add --locked")
        return order
    return locked_order(order, stem(spec), lock_of(order, lock))


def output_options(command: Command) -> Command:
    """Add what says how much is printed."""
    for decorate in reversed(
        [
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
            click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
            click.option("--verbose", "-v", is_flag=True, help="Show what the tools print."),
        ]
    ):
        command = decorate(command)
    return command


def make_order(
    spec: str, arch: str | None, name: str | None, overrides: tuple[str, ...], size: int | None = None
) -> Order:
    """Return what the options of `order_options` ask for.

    Raises:
        SpecError: The spec or a value is wrong.
    """
    if size is not None:
        overrides = (*overrides, f"size={size}")
    architecture = next((known for known in ARCHITECTURES if known == arch), None) or host_architecture()
    loaded = load(spec, (*overrides, *_of_the_environment(load(spec, overrides))))
    return Order(loaded, architecture, name or f"bouvet-{stem(spec)}", directory_of(spec))


def _of_the_environment(loaded: Spec) -> list[str]:
    """Return the values that the user's environment gives where the spec says nothing: rustup's variable."""
    server = os.environ.get("RUSTUP_DIST_SERVER")
    asked_for = loaded.rust is not None and loaded.rust.source == "rustup" and loaded.rust.server is None
    return [f"rust.server={server}"] if server and asked_for else []


def stem(spec: str) -> str:
    """Return the short name of a spec: the preset's, or the file's without its ending."""
    return Path(spec).name.removesuffix(".toml")


def print_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=1, sort_keys=True))
