"""Images of read-only file systems boot under a writable overlay, and are not written to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.booting import BootOptions, boot
from bouvet.errors import ImageError, MachineError
from bouvet.order import Order
from bouvet.pipeline import build
from bouvet.sandbox import Sandbox
from bouvet.spec import Spec
from bouvet.verifying import verify_booted
from tests.boot.test_container import minimal_image
from tests.conftest import USER_CACHE, build_image

pytestmark = pytest.mark.needs_tool("qemu-system-x86_64", "busybox", "mksquashfs", "mkfs.erofs")

MIB = 1 << 20
SECONDS = 30.0
SECONDS_TO_VERIFY = 600.0
CHANGES = """set -e
echo changed > /etc/passwd
echo new > /etc/file
rm /bin/ip
ln /etc/group /etc/linked
echo appended >> /etc/linked
mv /sbin /moved
mkdir /sbin
sync
cat /etc/file /etc/passwd
grep -c appended /etc/group
stat -c %h /etc/group
ls /moved
test ! -e /bin/ip
"""


@pytest.fixture(autouse=True)
def _kernels_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(USER_CACHE))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small container image in both forms, by our own init started."""
    directory = tmp_path_factory.mktemp("read-only")
    minimal_image(directory / "layout")
    spec = Spec.model_validate(
        {"from": "oci:layout", "system": {"hostname": "tiny"}, "formats": ["squashfs", "erofs"]}
    )
    done = build(Order(spec, "x86_64", "tiny", directory), directory / "tiny.ext4", cache=directory / "cache")
    return {path.suffix.removeprefix("."): path for path in (done.image, *done.others)}


@pytest.fixture(params=["squashfs", "erofs"])
def image(request: pytest.FixtureRequest, images: dict[str, Path]) -> Path:
    return images[request.param]


@pytest.fixture
def sandbox(image: Path) -> Iterator[Sandbox]:
    with boot(image, BootOptions(memory=256 * MIB, disk=64 * MIB)) as sandbox:
        yield sandbox


def test_what_is_written_is_there_until_the_machine_ends(sandbox: Sandbox, image: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    done = sandbox.run(CHANGES, timeout=SECONDS)
    assert done.stdout == "new\nchanged\n1\n2\ninit\n", done.stderr
    # The disk for it has the size that was asked for, and neither half of the overlay is to be found.
    room = sandbox.run('echo $(($(stat -f -c "%b * %S" /)))', timeout=SECONDS)
    assert 60 * MIB < int(room.stdout) <= 64 * MIB
    mounts = sandbox.run("cat /proc/mounts", timeout=SECONDS).stdout
    (root,) = (line for line in mounts.splitlines() if line.split()[1] == "/")
    assert root.startswith("overlay / overlay rw,")
    assert {"redirect_dir=on", "index=on"} <= set(root.split()[3].split(","))
    assert "/dev/vd" not in "".join(line for line in mounts.splitlines() if "/lib/modules" not in line)
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_the_room_for_it_ends_with_the_disk(sandbox: Sandbox) -> None:
    full = sandbox.run("cat /dev/zero > /big; rm /big; echo fits > /small; cat /small", timeout=SECONDS)
    assert full.stdout == "fits\n"
    assert "No space left on device" in full.stderr


def test_a_disk_that_is_too_small_is_refused(images: dict[str, Path]) -> None:
    options = BootOptions(memory=256 * MIB, disk=8192)
    with (
        pytest.raises(MachineError, match="a disk of 8192 bytes is not possible"),
        boot(images["erofs"], options),
    ):
        pass


def test_without_a_description_it_is_not_known_what_it_must_be(
    images: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "copy").write_bytes(images["squashfs"].read_bytes())
    with pytest.raises(ImageError, match="nothing says what"):
        verify_booted(tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.needs_tool("mmdebstrap")
def test_debian_meets_every_requirement_under_an_overlay() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as name:
        image = build_image("base", Path(name), "--format", "squashfs").path
        done = subprocess.run(
            [Path(sys.executable).with_name("bouvet"), "verify", "--json", "--quiet", image],
            env={**os.environ, "TERM": "dumb"},
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_VERIFY,
        )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert [row for row in found["rows"] if not row["passed"]] == []
    assert done.returncode == 0
    requirements = {row["requirement"] for row in found["rows"]}
    assert {"/ is an overlay, mounted read-write", "/ has grown to the disk's size"} <= requirements
    assert len(requirements) == 14
