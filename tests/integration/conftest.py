"""What the integration tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ordinary_user import NOBODY


@pytest.fixture
def nobodys_directory() -> Iterator[Path]:
    """A directory of the user nobody, not in one of root's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as made:
        os.chown(made, NOBODY, NOBODY)
        yield Path(made)
