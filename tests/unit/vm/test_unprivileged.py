"""Running programs as nobody."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bouvet import process
from bouvet.vm.unprivileged import NOBODY, as_nobody


def ids(command: list[str]) -> dict[str, str]:
    status = process.run([*command, "cat", "/proc/self/status"], timeout=20).stdout.decode()
    return dict(line.split(":\t", 1) for line in status.splitlines())


def test_an_ordinary_user_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert as_nobody() == []


@pytest.mark.needs_root
def test_root_becomes_nobody() -> None:
    found = ids(as_nobody())
    assert found["Uid"].split() == found["Gid"].split() == [str(NOBODY)] * 4
    assert found["Groups"].split() == []
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("mode", "group", "groups"), [(0o660, 107, ["107"]), (0o666, 107, []), (0o666, 0, [])]
)
def test_a_device_can_be_opened(tmp_path: Path, mode: int, group: int, groups: list[str]) -> None:
    device = tmp_path / "device"
    device.touch()
    os.chown(device, 0, group)
    device.chmod(mode)
    found = ids(as_nobody([device]))
    assert found["Uid"].split()[0] == str(NOBODY)
    assert found["Groups"].split() == groups


@pytest.mark.needs_root
@pytest.mark.parametrize(("mode", "group"), [(0o600, 107), (0o640, 107), (0o660, 0)])
def test_a_device_of_root_alone_needs_root(tmp_path: Path, mode: int, group: int) -> None:
    device = tmp_path / "device"
    device.touch()
    os.chown(device, 0, group)
    device.chmod(mode)
    assert as_nobody([device]) == []


@pytest.mark.needs_tool("unshare")
def test_root_of_a_namespace_without_nobody_stays() -> None:
    script = "from bouvet.vm.unprivileged import as_nobody; print(as_nobody())"
    done = process.run(["unshare", "--user", "--map-root-user", sys.executable, "-c", script], timeout=20)
    assert done.stdout == b"[]\n"
