"""The devbox for aarch64: built, verified by booting it, and served by its agent. `make test-aarch64`.

It is no part of `make test`, on an x86_64 host: there the packages' scripts are emulated, for minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.booting import BootOptions, boot
from bouvet.sandbox import Sandbox
from tests.boot.test_other_architecture import SECONDS_TO_BOOT, SECONDS_TO_VERIFY, play_in_guest
from tests.conftest import USER_CACHE, BuiltImage, build_image
from tests.protocol.test_vectors import DIRECTORY, FILES, GUEST_ONLY, vectors

pytestmark = pytest.mark.needs_tool("mmdebstrap", "qemu-aarch64-static", "qemu-system-aarch64")


@pytest.fixture(scope="module")
def image() -> Iterator[BuiltImage]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as directory:
        yield build_image("devbox", Path(directory), "--arch", "aarch64")


@pytest.fixture(scope="module")
def running(image: BuiltImage) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(USER_CACHE))
        with boot(image.path, BootOptions(memory=1 << 30, cpus=2, ready=SECONDS_TO_BOOT)) as sandbox:
            yield sandbox


def test_it_is_built(image: BuiltImage) -> None:
    assert int.from_bytes(image.agent.read_bytes()[18:20], "little") == 183


def test_it_meets_every_requirement_when_it_runs(image: BuiltImage) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("bouvet"), "verify", "--json", image.path],
        env={**os.environ, "XDG_CACHE_HOME": str(USER_CACHE), "TERM": "dumb"},
        check=False,
        capture_output=True,
        timeout=SECONDS_TO_VERIFY,
    )
    found = json.loads(done.stdout)
    assert [row for row in found["rows"] if not row["passed"]] == []
    assert (done.returncode, found["passed"]) == (0, True)
    assert len(found["rows"]) >= 120


@pytest.mark.parametrize("vector", vectors([*FILES, DIRECTORY / GUEST_ONLY]))
def test_the_agent_in_it_answers_as_the_vectors_say(vector: dict[str, Any], running: Sandbox) -> None:
    play_in_guest(vector, running)
