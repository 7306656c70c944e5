"""Commands over layers whose programs are of the architecture that the host does not have."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet import pipeline
from bouvet.errors import CommandFailed
from bouvet.formats.tree import regular_file
from bouvet.layers import agent
from bouvet.layers.emulation import HANDLERS
from bouvet.layers.layer import Layer
from bouvet.layers.store import Store
from tests.integration.layered import MADE, commit, run_script, tiny_system
from tests.integration.ordinary_user import as_nobody

pytestmark = pytest.mark.needs_tool("busybox", "qemu-aarch64-static", "qemu-x86_64-static", "unshare")

FOREIGN = "x86_64" if platform.machine() == "aarch64" else "aarch64"


@pytest.fixture
def store(empty_cache: Path) -> Iterator[Store]:
    with Store(empty_cache) as opened:
        yield opened


@pytest.fixture
def below(store: Store) -> Layer:
    """A system with one foreign program: the agent is static, and so needs no other file."""
    tree = tiny_system()
    tree[b"bin/foreign"] = regular_file(agent.binary(FOREIGN), 0o755, mtime=MADE)
    return commit(store, "tiny", tree)


def test_a_foreign_program_runs(store: Store, below: Layer) -> None:
    told: list[str] = []
    run_script(store, [below], "/bin/foreign --version", architecture=FOREIGN, output=told.append)
    assert len(told) == 1
    assert told[0].startswith("bouvet-agent ")


def test_a_failed_foreign_command_can_be_entered(store: Store, below: Layer) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_script(store, [below], "exit 3", architecture=FOREIGN, keep=True)
    assert caught.value.hint is not None
    place = Path(caught.value.hint.rpartition(" ")[2])
    assert pipeline.enter(place, ["/bin/foreign", "--version"]) == 0


@pytest.mark.needs_root
def test_an_ordinary_user_needs_no_handler_of_the_host(nobodys_directory: Path) -> None:
    """The kernel has had handlers for each user namespace since 6.7; before, the user is told."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = as_nobody(nobodys_directory, argv, subordinate="nobody:100000:65536\n", hidden=[HANDLERS])
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 7):
        assert f"programs for {FOREIGN} do not run on this host" in done.stdout
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"2 passed, 1 skipped", done.stdout), done.stdout
