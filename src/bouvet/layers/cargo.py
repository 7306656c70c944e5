"""The cargo layer: Rust programs compiled in the tree, by its own cargo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import commands
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import Command

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import CargoInputs

_HOME = "/usr/local/cargo"
_REGISTRY = f"{_HOME}/registry"


def make(inputs: CargoInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Compile and install the programs to /usr/local/cargo/bin.

    Raises:
        CommandFailed: cargo could not install them.
        LayerError: There is no cargo in the layers below.
    """
    if not any(path.endswith(b"/bin/cargo") for path in workshop.lower):
        raise LayerError("the layers below have no cargo", hint="add the table [rust] to the spec")
    assert workshop.below is not None
    settings = client_settings("CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_HTTP_", "CARGO_NET_")
    command = Command(
        argv=("cargo", "install", f"--root={_HOME}", "--locked", "--", *inputs.packages),
        network=True,
        # What is compiled is left in /tmp, which is no part of the layer.
        environment={
            **settings.environment,
            **dict(inputs.environment),
            "CARGO_HOME": _HOME,
            "CARGO_TARGET_DIR": "/tmp/target",  # noqa: S108  (the tree's own, new and in memory)
        },
        caches={_REGISTRY: workshop.below.cache("cargo")},
        files=settings.files,
    )
    workshop.progress("compiling Rust programs", None)
    commands.run_over_layers(command, workshop, layer)
