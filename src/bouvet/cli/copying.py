"""Files that `bouvet run` copies into a machine, and out of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from bouvet.errors import BouvetError
from bouvet.events import Listener, StepFinished, StepStarted
from bouvet.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Copy:
    """From where to where: `HOST:GUEST` or `GUEST:HOST`."""

    source: str
    target: str


class CopyType(click.ParamType[Copy]):
    """Two paths, with a colon between them."""

    name = "copy"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Copy:
        """Return the two, or fail with what is wrong."""
        if isinstance(value, Copy):
            return value
        source, colon, target = str(value).partition(":")
        if not source or not target or not colon:
            self.fail(f"'{value}' is not FROM:TO", param, ctx)
        return Copy(source, target)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Let the shell complete a file's name."""
        del ctx, param
        return [click.shell_completion.CompletionItem(incomplete, type="file")]


COPY = CopyType()


def upload_all(sandbox: Sandbox, copies: tuple[Copy, ...], listener: Listener) -> None:
    """Copy files and directories into a machine.

    Raises:
        BouvetError: One cannot be read here.
        AgentError: One cannot be written there.
    """
    for copy in copies:
        source = Path(copy.source)
        send = sandbox.files.upload_tree if source.is_dir() else sandbox.files.upload
        _copy("upload", copy, partial(send, source, copy.target), listener)


def download_all(sandbox: Sandbox, copies: tuple[Copy, ...], listener: Listener) -> None:
    """Copy files and directories out of a machine. A directory that is there already is not replaced.

    Raises:
        BouvetError: One cannot be written here.
        AgentError: One cannot be read there.
    """
    for copy in copies:
        is_directory = sandbox.files.stat(copy.source).type == "directory"
        get = sandbox.files.download_tree if is_directory else sandbox.files.download
        _copy("download", copy, partial(get, copy.source, Path(copy.target)), listener)


def _copy(step: str, copy: Copy, action: Callable[[], None], listener: Listener) -> None:
    started = time.monotonic()
    listener(StepStarted(step, f"{copy.source} to {copy.target}"))
    try:
        action()
    except OSError as error:
        raise BouvetError(f"cannot {step} {copy.source}: {error.strerror} ({error.filename})") from error
    listener(StepFinished(step, time.monotonic() - started, f"{copy.source} to {copy.target}"))
