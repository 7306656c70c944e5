"""What images go without: dpkg finds everything else of their packages, and `bouvet slim` tells the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bouvet.errors import LayerError
from bouvet.order import Order
from bouvet.plan import host_architecture
from bouvet.slimming import Rules, savings
from bouvet.spec import load
from tests.conftest import USER_CACHE, BuiltImage
from tests.formats.ext4 import oracles

MISSING = re.compile(r"missing +(?:c )?(/.*)")


def slim(*arguments: str) -> Any:
    """Return what `bouvet slim` says as JSON."""
    done = subprocess.run(
        [Path(sys.executable).with_name("bouvet"), "slim", *arguments, "--json"],
        env={**os.environ, "XDG_CACHE_HOME": str(USER_CACHE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)["slim"]


@pytest.mark.parametrize("preset", ["base", "devbox"])
@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.needs_tool("dpkg", "mount")
def test_dpkg_finds_all_but_what_is_left_out(preset: str, request: pytest.FixtureRequest) -> None:
    image: BuiltImage = request.getfixturevalue(f"{preset}_image")
    slimming = load(preset).slim
    rules = Rules([each.path for each in slimming.exclude], slimming.keep)
    with oracles.mounted(image.path) as root:
        argv = ["dpkg", f"--root={root}", "--verify"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    complaints = done.stdout.splitlines()
    assert any("/usr/share/man/" in line for line in complaints), done.stderr
    for line in complaints:
        missing = MISSING.fullmatch(line)
        assert missing, f"changed: {line}"
        assert rules.excluding(missing[1]) is not None, line


def test_each_exclusion_s_part_is_told(base_image: BuiltImage) -> None:
    found = {saving["path"]: saving for saving in slim("base")}
    assert set(found) == {each.path for each in load("base").slim.exclude}
    assert all(saving["reason"] for saving in found.values())
    assert found["/usr/share/man/*"]["files"] > 100
    assert found["/usr/share/locale/*"]["size"] > 1_000_000


def test_an_image_that_was_not_built(empty_cache: Path) -> None:
    with pytest.raises(LayerError, match="not built yet"):
        savings(Order(load("base"), host_architecture(), "bouvet-base"), cache=empty_cache)


def test_what_is_kept_stays() -> None:
    rules = Rules(["/usr/share/doc/*", "/usr/share/*/man"], ["/usr/share/doc/*/copyright"])
    assert rules.excluding("/usr/share/doc/a/b/README") == 0
    assert rules.excluding("/usr/share/a/b/man") == 1
    assert rules.excluding("/usr/share/doc/a/copyright") is None
    assert rules.excluding("/usr/bin/env") is None
