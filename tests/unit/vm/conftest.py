"""What the tests of virtual machines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.formats.virtio.driver import Guest
from tests.unit.vm.vsock_machine import Machine, new_machine


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """A machine's private directory."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def machine(run_directory: Path) -> Iterator[Machine]:
    """A vsock backend with a guest that offers all its receive buffers."""
    with new_machine(run_directory, Guest()) as machine:
        yield machine
