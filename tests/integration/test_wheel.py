"""The package as others get it: a source archive, a wheel built from it, and what the wheel installs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The ELF header's machine, at offset 18 (System V ABI, chapter 4): what each architecture's files say.
MACHINES = {"x86_64": 62, "aarch64": 183}


def run(*arguments: str | Path, directory: Path) -> str:
    """Run this Python with arguments and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive."""
    directory = tmp_path_factory.mktemp("sdist")
    run("-m", "hatchling", "build", "--target", "sdist", "--directory", directory, directory=ROOT)
    [archive] = directory.glob("bouvet-*.tar.gz")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", directory], check=True)
    return directory / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive."""
    directory = tmp_path_factory.mktemp("wheel")
    run("-m", "hatchling", "build", "--target", "wheel", "--directory", directory, directory=source)
    [path] = directory.glob("bouvet-*.whl")
    return path


def test_the_wheel_carries_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = ROOT / "src"
    sources = {
        str(path.relative_to(tree))
        for path in (tree / "bouvet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "binaries" not in path.parts
    }
    assert names == sources | {f"bouvet/binaries/bouvet-agent-{architecture}" for architecture in MACHINES}


def test_the_wheel_carries_an_executable_agent_for_each_architecture(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for architecture, machine in MACHINES.items():
            name = f"bouvet/binaries/bouvet-agent-{architecture}"
            content = archive.read(name)
            assert content[:4] == b"\x7fELF"
            assert int.from_bytes(content[18:20], "little") == machine
            assert archive.getinfo(name).external_attr >> 16 & 0o777 == 0o755


def test_the_agent_is_the_same_wherever_it_is_compiled(wheel: Path) -> None:
    built = run("hatch_build.py", *MACHINES, directory=ROOT).splitlines()
    with zipfile.ZipFile(wheel) as archive:
        for path in map(Path, built):
            assert archive.read(f"bouvet/binaries/{path.name}") == path.read_bytes()


def test_the_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    run(
        "-m",
        "pip",
        "--quiet",
        "install",
        "--no-deps",
        "--target",
        tmp_path / "site",
        wheel,
        directory=tmp_path,
    )
    done = subprocess.run(
        [sys.executable, "-c", "import bouvet; print(bouvet.__file__, bouvet.__version__)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    place, version = done.stdout.split()
    assert Path(place).is_relative_to(tmp_path)
    assert wheel.name.startswith(f"bouvet-{version}-")
