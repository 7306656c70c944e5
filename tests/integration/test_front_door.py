"""The front door: make's variables, the packages it asks for, and the lock."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import bouvet
from bouvet import errors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project() -> dict[str, object]:
    """The project table of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def make(*arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make without the settings of a make that runs these tests."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name
        not in ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "ARCH", "IMAGE_SIZE", "IMAGE_NAME")
    }
    return subprocess.run(
        ["make", *arguments],
        check=False,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.needs_tool("make")
@pytest.mark.parametrize(
    "assignment",
    [
        "ARCH=aarch64",
        "ARCH=x86_64",
        "IMAGE_SIZE=2500M",
        "IMAGE_SIZE=1073741824",
        "IMAGE_SIZE=3G",
        "IMAGE_SIZE=16384K",
        "IMAGE_SIZE=16T",
        "IMAGE_SIZE=3GiB",
        "IMAGE_SIZE=900m",
        "IMAGE_NAME=devbox",
        "IMAGE_NAME=team/dev-box_2.1",
    ],
)
def test_a_sensible_variable_is_taken(assignment: str) -> None:
    assert make("variables", assignment).returncode == 0


@pytest.mark.needs_tool("make")
@pytest.mark.parametrize(
    "assignment",
    [
        "ARCH=mips",
        "ARCH=",
        "ARCH=amd64",
        "IMAGE_SIZE=large",
        "IMAGE_SIZE=0",
        "IMAGE_SIZE=-1",
        "IMAGE_SIZE=1M1",
        "IMAGE_SIZE=1.5G",
        "IMAGE_SIZE=1",
        "IMAGE_SIZE=16383K",
        "IMAGE_SIZE=17T",
        "IMAGE_SIZE=99999999999999999999T",
        "IMAGE_SIZE=1G\n2G",
        "IMAGE_NAME=",
        "IMAGE_NAME=DevBox",
        "IMAGE_NAME=a//b",
        "IMAGE_NAME=a;true",
        "IMAGE_NAME=a:latest",
    ],
)
def test_a_nonsensical_variable_ends_make_before_anything_is_done(tmp_path: Path, assignment: str) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("tools", "agent"):
        shutil.copytree(ROOT / name, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    for target in ("rootfs", "agent", "docker-image", "rebuild", "test"):
        done = make(target, assignment, directory=tmp_path)
        name, _, value = assignment.partition("=")
        assert done.returncode == 2
        assert f"{name} is '{value}'; it must be" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.needs_tool("make")
def test_help_names_every_public_target() -> None:
    done = make("help")
    for target in ("rootfs", "agent", "docker-image", "clean", "rebuild", "help", "test"):
        assert re.search(rf"^  {target} ", done.stdout, re.MULTILINE)


def test_what_cannot_be_installed_is_named_in_one_command(tmp_path: Path) -> None:
    """Without apt-get the packages cannot be installed, whoever asks."""
    for program in ("sh", "dirname", "id"):
        found = shutil.which(program)
        assert found
        (tmp_path / program).symlink_to(found)
    script = ROOT / "tools" / "packages.sh"
    done = subprocess.run(
        ["/bin/sh", script, "python", "build"],
        check=False,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    command = done.stderr.splitlines()[-1]
    assert command.startswith("  sudo apt-get install --yes ")
    assert {"python3-venv", "mmdebstrap", "gpg"} <= set(command.split())


def needed_packages() -> dict[str, list[str]]:
    """Return each Debian package that packages.sh may install, with what shows that it is there."""
    text = (ROOT / "tools" / "packages.sh").read_text()
    return {name: rest.split() for name, rest in re.findall(r"^ +need (\S+) (.*)$", text, re.MULTILINE)}


def test_every_tool_that_a_test_needs_is_installed() -> None:
    """Those that no package brings are in every Debian: essential, or of priority 'required', or make."""
    everywhere = {
        "apt-get",
        "dpkg",
        "dpkg-deb",
        "findmnt",
        "ldd",
        "losetup",
        "make",
        "mount",
        "setpriv",
        "sh",
        "taskset",
        "umount",
        "unshare",
    }
    installed = {witness for witnesses in needed_packages().values() for witness in witnesses}
    wanted: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.needs_tool":
                wanted |= {ast.literal_eval(argument) for argument in node.args}
    assert wanted - everywhere <= installed


def test_the_set_up_guide_names_the_same_packages() -> None:
    text = (ROOT / "docs" / "how-to" / "set-up.md").read_text().replace("\\\n", " ")
    named = {word for line in re.findall(r"apt-get install --yes(.*)", text) for word in line.split()}
    assert named - {"python3-venv"} == set(needed_packages()) - {"ca-certificates"}


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return each package of the lock with its version and hashes."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    packages = {}
    for line in text.splitlines():
        requirement, *options = line.split()
        name, version = requirement.split("==")
        packages[name] = (version, options)
    return packages


def test_the_lock_pins_everything_and_names_no_place() -> None:
    for name, (version, options) in locked().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name
        assert options, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), name


def test_the_lock_covers_what_the_project_declares(project: dict[str, object]) -> None:
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)
    assert isinstance(project["dependencies"], list)
    declared = [*project["dependencies"], *optional["dev"]]
    names = {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in declared}
    assert names <= set(locked())


def test_the_tests_run_with_the_locked_versions() -> None:
    installed = {name: importlib.metadata.version(name) for name in locked()}
    assert installed == {name: version for name, (version, _) in locked().items()}


def test_the_version_is_told_the_same_everywhere(project: dict[str, object]) -> None:
    assert bouvet.__version__ == project["version"] == importlib.metadata.version("bouvet")


def test_the_exit_statuses_are_documented() -> None:
    text = (ROOT / "docs" / "reference" / "exit-status.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE))
    classes = [getattr(errors, name) for name in rows.values()]
    assert {int(status) for status in rows} == {error.exit_code for error in classes}
    every = [value for value in vars(errors).values() if isinstance(value, type)]
    own = {value for value in every if issubclass(value, errors.BouvetError) and "exit_code" in vars(value)}
    assert own == set(classes)
