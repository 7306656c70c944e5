"""The pip layer: Python packages in the system's Python, by its own pip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import commands
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import Command

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import PipInputs

_CACHE = "/root/.cache/pip"


def make(inputs: PipInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Install the packages below /usr/local.

    Raises:
        CommandFailed: pip could not install them.
        LayerError: There is no pip in the layers below.
    """
    if b"usr/bin/pip3" not in workshop.lower and b"usr/local/bin/pip3" not in workshop.lower:
        raise LayerError("the layers below have no pip", hint="add 'python3-pip' to the packages")
    assert workshop.below is not None
    settings = client_settings("PIP_")
    # The tree is the image's own: pip may install into it, and as root.
    options = (
        "--no-input",
        "--disable-pip-version-check",
        "--break-system-packages",
        "--root-user-action=ignore",
    )
    command = Command(
        argv=("pip3", "install", *options, f"--cache-dir={_CACHE}", "--", *inputs.packages),
        network=True,
        environment={**settings.environment, **dict(inputs.environment)},
        caches={_CACHE: workshop.below.cache("pip")},
        files=settings.files,
    )
    workshop.progress("installing Python packages", None)
    commands.run_over_layers(command, workshop, layer)
