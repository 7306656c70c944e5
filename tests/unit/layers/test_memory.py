"""How much memory a build may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.layers.memory import available


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "self/cgroup").write_text("1:cpu:/old\n0::/outer/inner\n")
    (tmp_path / "groups/outer/inner").mkdir(parents=True)
    return tmp_path


def limit(group: Path, maximum: str, current: int) -> None:
    (group / "memory.max").write_text(maximum + "\n")
    (group / "memory.current").write_text(f"{current}\n")


def test_without_limits_it_is_the_kernels_estimate(system: Path) -> None:
    limit(system / "groups/outer/inner", "max", 1)
    assert available(system, system / "groups") == 4000 << 10


@pytest.mark.parametrize("group", ["groups", "groups/outer", "groups/outer/inner"])
def test_a_limit_of_any_group_counts(system: Path, group: str) -> None:
    limit(system / group, "5000", 3000)
    assert available(system, system / "groups") == 2000


def test_a_group_above_its_limit_has_none(system: Path) -> None:
    limit(system / "groups/outer", "5000", 6000)
    assert available(system, system / "groups") == 0


def test_there_is_some_here() -> None:
    assert available() > 1 << 20
