"""The process that lays layers out as directories: `python -m bouvet.layers.unpacking`.

It runs in `namespaces`, because files get their real owners. Its arguments are pairs: a committed layer's
directory and an empty directory to lay it out in, or `-` and a directory to survey. It prints one JSON
document: `surveys`, in the order of the pairs, or what went wrong. `bouvet.layers.unpacked` starts it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bouvet import process
from bouvet.errors import BouvetError, LayerCorrupt
from bouvet.layers import layout
from bouvet.layers.layer import load_layer
from bouvet.layers.layout import Survey

EXISTING = "-"
"""Stands for a layer that is laid out already."""


def main(arguments: Sequence[str]) -> None:
    """Work through the pairs and print what came of them."""
    process.end_on_sigterm()
    try:
        pairs = zip(arguments[::2], arguments[1::2], strict=True)
        answer: dict[str, object] = {"surveys": [dataclasses.asdict(row) for row in _surveys(pairs)]}
    except LayerCorrupt as error:
        answer = {"error": error.message, "corrupt": error.digest}
    except BouvetError as error:
        answer = {"error": error.message}
    except OSError as error:
        answer = {"error": str(error), "errno": error.errno}
    json.dump(answer, sys.stdout)


def _surveys(pairs: Iterator[tuple[str, str]]) -> Iterator[Survey]:
    for source, directory in pairs:
        if source != EXISTING:
            layer, blob = load_layer(Path(source), Path(source).name)
            try:
                layout.lay_out(layer.tree, os.fsencode(directory))
            finally:
                blob.close()
        yield layout.survey(os.fsencode(directory))


if __name__ == "__main__":
    main(sys.argv[1:])
