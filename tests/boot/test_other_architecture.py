"""An image for the other architecture: made here, verified by booting it, and served by its agent."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.booting import BootOptions, boot
from bouvet.protocol import LineSplitter
from bouvet.sandbox import Sandbox, dial
from tests.conftest import USER_CACHE, BuiltImage
from tests.protocol.test_vectors import play, vectors

pytestmark = [
    pytest.mark.needs_tool(
        "mmdebstrap", "qemu-aarch64-static", "qemu-system-aarch64", "qemu-system-x86_64", "qemu-x86_64-static"
    ),
    pytest.mark.slow,
]

NOT_IN_BASE = {"python and python3"}
"""Vectors of programs that the preset does not have; the devbox's test plays them."""

MACHINES = {"x86_64": 62, "aarch64": 183}
SECONDS_TO_BOOT = 240.0
SECONDS_TO_VERIFY = 900.0


@pytest.fixture(scope="module")
def running(other_base_image: BuiltImage) -> Iterator[Sandbox]:
    """The image, booted with the user's kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(USER_CACHE))
        with boot(other_base_image.path, BootOptions(ready=SECONDS_TO_BOOT)) as sandbox:
            yield sandbox


def test_it_meets_every_requirement_when_it_runs(other_base_image: BuiltImage) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("bouvet"), "verify", "--json", other_base_image.path],
        env={**os.environ, "XDG_CACHE_HOME": str(USER_CACHE), "TERM": "dumb"},
        check=False,
        capture_output=True,
        timeout=SECONDS_TO_VERIFY,
    )
    found = json.loads(done.stdout)
    assert [row for row in found["rows"] if not row["passed"]] == []
    assert (done.returncode, found["passed"]) == (0, True)
    assert len([row for row in found["rows"] if row["area"] == "Booted system"]) >= 9


def test_the_agent_beside_it_is_the_other_architecture_s(
    other_base_image: BuiltImage, running: Sandbox
) -> None:
    machine = running.run("uname -m").stdout.strip()
    assert machine != platform.machine()
    head = other_base_image.agent.read_bytes()[:20]
    assert int.from_bytes(head[18:], "little") == MACHINES[machine]


@pytest.mark.parametrize("vector", [one for one in vectors() if one.values[0]["name"] not in NOT_IN_BASE])
def test_the_agent_in_it_answers_as_the_vectors_say(vector: dict[str, Any], running: Sandbox) -> None:
    play_in_guest(vector, running)


# --- Used by the devbox's test as well ----------------------------------------------------------------


def play_in_guest(vector: dict[str, Any], sandbox: Sandbox) -> None:
    """Take a vector's steps on a connection to a guest's agent."""
    directory = sandbox.run("mktemp -d").stdout.strip()
    with contextlib.closing(VsockConnection(sandbox)) as connection:
        play(vector, connection, directory)


class VsockConnection:
    """A client that sends and reads lines, through the machine's vsock."""

    def __init__(self, sandbox: Sandbox) -> None:
        deadline = time.monotonic() + SECONDS_TO_BOOT
        machine = sandbox.machine
        self.socket = dial(machine.socket_path, deadline=deadline, ended=lambda _: False)
        self.socket.settimeout(SECONDS_TO_BOOT)
        self._splitter = LineSplitter()
        self._lines: list[bytes] = []

    def send_line(self, line: bytes) -> None:
        self.socket.sendall(line + b"\n")

    def read_line(self) -> bytes:
        while not self._lines:
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise EOFError("the agent closed the connection")
            self._lines += self._splitter.feed(piece)
        return self._lines.pop(0)

    def close(self) -> None:
        self.socket.close()
