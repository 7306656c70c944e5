"""`bouvet inspect`: tables, JSON and bills of materials."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bouvet.formats.tree import regular_file
from tests.unit.image.package_tree import package_tree, write_image

COMMAND = [sys.executable, "-c", "from bouvet.cli import main; main()", "inspect"]


def inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [*COMMAND, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = package_tree()
    tree[b"opt/\x1b[2J"] = regular_file(b"x" * 40_000)
    return write_image(tmp_path / "tiny.ext4", tree)


def test_tables(image: Path) -> None:
    done = inspect(image, "--rows", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].endswith("packages: 1 cargo, 2 deb, 2 generic, 2 npm, 1 pypi")
    assert [line.split()[1] for line in done.stdout.splitlines() if line.lstrip().startswith("size")] == [
        "layer",
        "directory",
        "package",
        "file",
    ]
    assert "deb libbig 1:2.0+dfsg-1" in done.stdout
    assert "/opt/?[2J" in done.stdout


def test_json(image: Path) -> None:
    document = json.loads(inspect(image, "--json").stdout)
    assert document["size"] == image.stat().st_size
    assert len(document["packages"]) == 8


@pytest.mark.parametrize(
    ("form", "key", "value"),
    [("cyclonedx", "specVersion", "1.5"), ("spdx", "spdxVersion", "SPDX-2.3")],
)
def test_bills_of_materials(image: Path, form: str, key: str, value: str) -> None:
    done = inspect(image, "--sbom", form)
    assert json.loads(done.stdout)[key] == value
    assert inspect(image, "--sbom", form).stdout == done.stdout


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "not.ext4").write_bytes(b"no" * 5000)
    done = inspect(tmp_path / "not.ext4")
    assert done.returncode == 8
    assert "Traceback" not in done.stderr
