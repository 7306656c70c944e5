"""The npm layer: Node.js packages installed globally, by the tree's own npm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import commands
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import FILES, Command

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import NpmInputs

_CACHE = "/root/.npm"
_USER_SETTINGS = "npmrc"


def make(inputs: NpmInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Install the packages below npm's global prefix, which is /usr/local.

    Raises:
        CommandFailed: npm could not install them.
        LayerError: There is no npm in the layers below.
    """
    if not any(name in workshop.lower for name in (b"usr/bin/npm", b"usr/local/bin/npm")):
        raise LayerError("the layers below have no npm", hint="add the table [node] to the spec")
    assert workshop.below is not None
    settings = client_settings("NPM_CONFIG_")
    files, environment = dict(settings.files), {**settings.environment, **dict(inputs.environment)}
    if (user := Path.home() / ".npmrc").is_file():
        files[_USER_SETTINGS] = user.read_bytes()
        environment["npm_config_userconfig"] = f"{FILES}/{_USER_SETTINGS}"
    options = ("--global", "--no-audit", "--no-fund", "--no-update-notifier", "--logs-max=0")
    command = Command(
        argv=("npm", "install", *options, f"--cache={_CACHE}", "--", *inputs.packages),
        network=True,
        environment=environment,
        caches={_CACHE: workshop.below.cache("npm")},
        files=files,
    )
    workshop.progress("installing Node.js packages", None)
    commands.run_over_layers(command, workshop, layer)
