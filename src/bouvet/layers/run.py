"""A layer of a script's changes: a step of the user's own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bouvet.layers import commands
from bouvet.layers.client_settings import ClientSettings, client_settings
from bouvet.layers.commands import Command

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import RunInputs


def make(inputs: RunInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Run the script, by the interpreter that its first line names, else by `sh -e`.

    Raises:
        CommandFailed: It ended with an error.
        LayerError: It cannot be started, or the host does not let the user run it.
    """
    assert workshop.below is not None
    script = commands.FILES + "/script"
    settings = client_settings() if inputs.network else ClientSettings({}, {})
    command = Command(
        argv=(script,) if inputs.script.startswith("#!") else ("/bin/sh", "-e", script),
        network=inputs.network,
        user=inputs.user,
        environment={**settings.environment, **dict(inputs.environment)},
        directory=inputs.cwd,
        caches={place: workshop.below.cache(cache_name(place)) for place in inputs.caches},
        files={**settings.files, "script": inputs.script.encode()},
    )
    commands.run_over_layers(command, workshop, layer)


def cache_name(place: str) -> str:
    """Return the name of what is kept for a directory of a tree between builds."""
    return hashlib.sha256(place.encode()).hexdigest()[:16]
