"""Running programs of the other architecture: the host's handlers, and those of a namespace of one's own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.layers import emulation

ROOT = Path(__file__).parents[3]
FOREIGN = "x86_64" if platform.machine() == "aarch64" else "aarch64"
ENTERED = ["unshare", "--user", "--map-root-user", "--mount"]
# What the kernel tells of the handler that Debian's qemu-user-static has registered.
AARCH64 = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: PF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def handlers(directory: Path, text: str) -> Path:
    """Return a directory as the kernel's."""
    (directory / "status").write_text("enabled\n")
    (directory / "any-name").write_text(text)
    return directory


def test_a_handler_is_known_by_what_it_matches(tmp_path: Path) -> None:
    assert emulation.has_handler("aarch64", handlers(tmp_path, AARCH64))
    assert not emulation.has_handler("x86_64", tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("enabled", "disabled"), ("flags: PF", "flags: P"), ("flags: PF", "flags: "), ("0200b700", "0200f300")],
)
def test_a_handler_that_would_not_start_every_program_does_not_count(
    old: str, new: str, tmp_path: Path
) -> None:
    assert not emulation.has_handler("aarch64", handlers(tmp_path, AARCH64.replace(old, new)))


def test_there_is_no_handler_where_the_file_system_is_not_mounted(tmp_path: Path) -> None:
    assert not emulation.has_handler("aarch64", tmp_path / "missing")


def test_a_host_s_own_programs_need_nothing(tmp_path: Path) -> None:
    assert emulation.enter_emulation(["unshare"], platform.machine(), handlers=tmp_path) == ["unshare"]


def test_a_host_with_a_handler_needs_nothing_more(tmp_path: Path) -> None:
    handlers(tmp_path, AARCH64.replace("b700", "3e00" if FOREIGN == "x86_64" else "b700"))
    assert emulation.enter_emulation(["unshare"], FOREIGN, handlers=tmp_path) == ["unshare"]


@pytest.mark.needs_tool("qemu-aarch64-static", "qemu-x86_64-static")
def test_root_is_told_to_register_one(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=f"programs for {FOREIGN} do not run") as raised:
        emulation.enter_emulation(["unshare"], FOREIGN, handlers=tmp_path, user=0)
    assert "update-binfmts --enable" in str(raised.value.hint)


@pytest.mark.needs_tool("qemu-aarch64-static", "qemu-x86_64-static", "unshare")
def test_foreign_programs_run_in_a_namespace_with_its_own_handler(tmp_path: Path) -> None:
    """The kernel has had handlers for each user namespace since 6.7."""
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 7):
        with pytest.raises(LayerError, match="do not run on this host"):
            emulation.enter_emulation(ENTERED, FOREIGN, handlers=tmp_path, user=1000)
        return
    argv = emulation.enter_emulation(ENTERED, FOREIGN, handlers=tmp_path, user=1000)
    before = sorted(path.name for path in emulation.HANDLERS.glob("*"))
    built = subprocess.run(
        [sys.executable, str(ROOT / "hatch_build.py"), FOREIGN], stdout=subprocess.PIPE, check=True
    )
    agent = built.stdout.decode().strip()
    done = subprocess.run([*argv, agent, "--version"], check=False, capture_output=True, timeout=60)
    assert done.stdout.startswith(b"bouvet-agent "), done.stderr
    # Inside another root too, where the emulator is not: the agent is static, and all there is.
    (tmp_path / "agent").write_bytes(Path(agent).read_bytes())
    (tmp_path / "agent").chmod(0o755)
    done = subprocess.run(
        [*argv, "chroot", str(tmp_path), "/agent", "--version"], check=False, capture_output=True, timeout=60
    )
    assert done.stdout.startswith(b"bouvet-agent "), done.stderr
    assert sorted(path.name for path in emulation.HANDLERS.glob("*")) == before


@pytest.mark.needs_tool("qemu-aarch64-static", "qemu-x86_64-static", "unshare")
def test_a_namespace_that_cannot_be_entered_is_told(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="do not run on this host") as raised:
        emulation.enter_emulation(["unshare", "--no-such-option"], FOREIGN, handlers=tmp_path, user=1000)
    assert raised.value.details
