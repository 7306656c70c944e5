"""The locale layer: a locale compiled in the tree (localedef(1))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import commands
from bouvet.layers.commands import Command

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import LocaleInputs


def make(inputs: LocaleInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Compile the locale.

    Raises:
        LayerError: Its description is not in the layers below.
    """
    language, _, rest = inputs.locale.partition(".")
    modifier = rest.partition("@")[2]
    source = f"{language}@{modifier}" if modifier else language
    if f"usr/share/i18n/locales/{source}".encode() not in workshop.lower:
        raise LayerError(
            f"the locale {inputs.locale} cannot be compiled: its description is not in the image",
            hint="add 'locales' to the packages, or check the name",
        )
    command = Command(("localedef", "--inputfile", source, "--charmap", "UTF-8", inputs.locale))
    commands.run_over_layers(command, workshop, layer)
