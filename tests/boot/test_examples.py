"""The examples: each is built, booted, and tested by the commands that it brings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet import guest_checks
from bouvet.booting import BootOptions, boot
from bouvet.formats.ext4 import Ext4Reader
from bouvet.image.verify import manifest_expectation
from bouvet.vm.machine import GIB
from tests.conftest import TOOL_PATH, USER_CACHE, BuiltImage, build_image
from tests.unit.layers.container_images import entry, folder, symlink, tar

pytestmark = [pytest.mark.slow, pytest.mark.needs_tool("qemu-system-x86_64", "mmdebstrap")]

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 900.0
APPLETS = ("awk", "cat", "env", "grep", "head", "ls", "sh", "stat", "tr")


@pytest.fixture(autouse=True)
def _kernels_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(USER_CACHE))


@pytest.fixture
def workplace() -> Iterator[Path]:
    """A directory with room for images."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as name:
        yield Path(name)


def run(*argv: str | Path, content: bytes = b"") -> None:
    environment = {"PATH": TOOL_PATH, "HOME": str(Path.home()), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv, input=content, env=environment, check=False, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def verify(image: Path) -> dict[str, dict[str, Any]]:
    """Let `bouvet verify` look at an image, and boot it; return its rows, all of which have to pass."""
    done = subprocess.run(
        [Path(sys.executable).with_name("bouvet"), "verify", "--json", "--quiet", image],
        env={**os.environ, "TERM": "dumb"},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row for row in rows if not row["passed"]] == []
    assert done.returncode == 0
    return {row["requirement"]: row for row in rows}


def own_tests(image: Path) -> list[str]:
    """Boot an image of the devbox and run its own tests as `bouvet verify` does; return their names.

    What else it does with a devbox takes a minute, and is done with the preset's (`test_verify`).
    """
    expected = manifest_expectation(image)
    with boot(image, BootOptions(memory=GIB)) as sandbox:
        assert guest_checks.check_state(sandbox, timeout=SECONDS).passed
        checks = [guest_checks.own_check(test) for test in expected.tests]
        rows = guest_checks.check_guest(sandbox, checks, done=lambda _row, _fraction: None)
    assert [row for row in rows if not row.passed] == []
    return [row.requirement for row in rows]


def test_a_service(workplace: Path) -> None:
    rows = verify(build_image(str(EXAMPLES / "service.toml"), workplace).path)
    assert rows["the service answers"]["found"] == "hello from bouvet"


def test_python_packages(devbox_image: BuiltImage, workplace: Path) -> None:
    image = build_image(str(EXAMPLES / "pip.toml"), workplace).path
    with Ext4Reader(image) as reader:
        packages = reader.listdir(b"usr/local/lib/python3.11/dist-packages")
        assert {b"requests", b"rich"} <= set(packages)
        assert any(name.startswith(b"requests-2.32.") for name in packages)
        assert b".cache" not in reader.listdir(b"root")
    assert own_tests(image) == ["requests can be imported", "rich is installed"]


def test_a_project_with_a_build_of_its_own(devbox_image: BuiltImage, workplace: Path) -> None:
    image = build_image(str(EXAMPLES / "project/bouvet.toml"), workplace).path
    with Ext4Reader(image) as reader:
        answer = reader.stat(b"srv/project/target/release/answer")
        assert (answer.uid, answer.gid, answer.mode) == (1000, 1000, 0o100755)
        assert reader.read(b"srv/project/target/release/answer")[:4] == b"\x7fELF"
        assert sorted(reader.listdir(b"srv/project")) == [b"Cargo.lock", b"Cargo.toml", b"src", b"target"]
        assert reader.listdir(b"home/dev") == reader.listdir(b"etc/skel")
    assert own_tests(image) == ["the project runs"]


@pytest.mark.needs_tool("busybox", "skopeo", "umoci")
def test_a_container_image_of_busybox(workplace: Path) -> None:
    """The image is no Alpine, which only a registry has, but of the same parts, and says to be one."""
    busybox = Path(shutil.which("busybox", path=TOOL_PATH) or "").read_bytes()
    layer = tar(
        folder("bin"), entry("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{applet}", "busybox") for applet in APPLETS),
        folder("sbin"), symlink("sbin/init", "/bin/busybox"),
        folder("etc"), entry("etc/os-release", b"ID=alpine\n"),
        entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), entry("etc/group", b"root:x:0:\n"),
        folder("root"), folder("tmp", mode=0o1777),
    )  # fmt: skip
    (workplace / "layer.tar").write_bytes(layer)
    container_image(workplace / "layer.tar", workplace / "alpine.tar")
    shutil.copy(EXAMPLES / "alpine.toml", workplace)
    rows = verify(build_image(str(workplace / "alpine.toml"), workplace).path)
    assert rows["it is the container image's system"]["found"] == "alpine"
    assert rows["the image has no systemd; the agent is its init"]["passed"]


@pytest.mark.needs_tool("skopeo", "umoci")
def test_a_container_image_of_debian(workplace: Path) -> None:
    run("mmdebstrap", "--quiet", "--variant=apt", "bookworm", workplace / "debian-layer.tar")
    container_image(workplace / "debian-layer.tar", workplace / "debian.tar")
    shutil.copy(EXAMPLES / "debian-container.toml", workplace)
    rows = verify(build_image(str(workplace / "debian-container.toml"), workplace).path)
    assert rows["jq answers"]["found"] == "42"
    assert rows["the system is running, no unit failed"]["found"] == "running"


def container_image(layer: Path, target: Path) -> None:
    """Make an archive with an image of one layer."""
    layout = f"{target.with_suffix('')}-layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:latest")
    run("umoci", "raw", "add-layer", "--image", f"{layout}:latest", layer)
    run("skopeo", "copy", "--quiet", f"oci:{layout}:latest", f"oci-archive:{target}:latest")
