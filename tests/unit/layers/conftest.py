"""A layer to add to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.layers.writer import LayerWriter


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[LayerWriter]:
    """A layer that is being written; its content can be read from its tree."""
    directory = tmp_path / "layer"
    directory.mkdir()
    writer = LayerWriter(directory)
    yield writer
    writer.close()
