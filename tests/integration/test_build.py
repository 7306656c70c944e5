"""Images built by the whole pipeline, from real packages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bouvet import order as orders
from bouvet import pipeline
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import BLOCK, FileTree, directory
from bouvet.layers.store import Store
from bouvet.plan import host_architecture
from bouvet.spec import load
from tests.conftest import USER_CACHE, BuiltImage
from tests.formats.ext4 import oracles

BOUVET = Path(sys.executable).with_name("bouvet")


def order(preset: str) -> pipeline.Order:
    return pipeline.Order(load(preset), host_architecture(), f"bouvet-{preset}")


@contextlib.contextmanager
def tree_of(preset: str) -> Iterator[FileTree]:
    """Yield the merged layers that the preset's image was written from."""
    with Store(USER_CACHE / "bouvet") as store:
        layers = [store.get(step.digest) for step in order(preset).steps]
        yield pipeline.merged_tree(order(preset), [layer for layer in layers if layer is not None])


def run(*arguments: str | Path, cache: Path = USER_CACHE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BOUVET, *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture
def own_cache(base_image: BuiltImage, tmp_path: Path) -> Path:
    """A cache with the base's layers, for tests that damage it."""
    for step in order("base").steps:
        shutil.copytree(
            USER_CACHE / "bouvet" / "layers" / step.digest, tmp_path / "own/bouvet/layers" / step.digest
        )
    return tmp_path / "own"


@pytest.mark.parametrize("preset", ["base", "devbox"])
@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.needs_tool("e2fsck", "mount")
def test_the_image_holds_the_merged_layers(preset: str, request: pytest.FixtureRequest) -> None:
    """By e2fsck's judgement and, name by name, by what the kernel shows of the mounted image."""
    image: BuiltImage = request.getfixturevalue(f"{preset}_image")
    oracles.check_fsck(image.path)
    with tree_of(preset) as tree:
        newest = max(inode.mtime for inode in tree.values())
        made = {b"lost+found": directory(0o700, mtime=newest // 10**9 * 10**9)}
        oracles.check_kernel(image.path, tree | made)


def test_the_overhead_is_small(devbox_image: BuiltImage) -> None:
    """At most 1.5 % over what is stored: the files' data without holes, and a block for each directory.

    The free space that the spec asks for is not overhead; the journal, the inodes and all else is.
    """
    with tree_of("devbox") as tree:
        inodes = list({id(inode): inode for inode in tree.values()}.values())
        runs = (segment.length for inode in inodes for segment in inode.segments)
        data = sum(-(-length // BLOCK) * BLOCK for length in runs)
        data += BLOCK * sum(inode.is_directory for inode in inodes)
        assert (devbox_image.size - load("devbox").free) / data - 1 <= 0.015


def test_an_image_that_is_up_to_date_is_left_alone(base_image: BuiltImage) -> None:
    before = base_image.path.stat()
    done = run("build", "base", "--output", base_image.path.parent, "--json")
    assert json.loads(done.stdout)["unchanged"] is True
    assert base_image.path.stat() == before


def test_equal_layers_give_equal_bytes(base_image: BuiltImage, tmp_path: Path) -> None:
    assert run("build", "base", "--output", tmp_path / "again.ext4").returncode == 0
    assert (tmp_path / "again.ext4").read_bytes() == base_image.path.read_bytes()


def test_a_build_tells_and_draws_when_its_steps_ran(own_cache: Path, tmp_path: Path) -> None:
    agent = next(step for step in order("base").steps if step.name == "agent")
    shutil.rmtree(own_cache / "bouvet/layers" / agent.digest)
    picture = tmp_path / "build.svg"
    options = ("--output", tmp_path / "image.ext4", "--timings", "--profile", picture)
    done = run("build", "base", *options, cache=own_cache)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stderr.splitlines() if " s " in line and ":" not in line}
    assert rows.keys() == {step.name for step in order("base").steps} | {"image"}
    assert rows["debian"].endswith("cached")
    assert not rows["agent"].endswith("cached")
    assert " for " in rows["image"]
    shapes = [shape.get("class") for shape in ET.parse(picture).iter("{http://www.w3.org/2000/svg}rect")]
    assert shapes.count("bar") == len(rows)
    again = json.loads(run("build", "base", *options[:2], "--json", cache=own_cache).stdout)
    assert [(timing["step"], timing["cached"]) for timing in again["timings"]] == [("image", True)]


def test_the_image_says_what_it_was_made_from(base_image: BuiltImage) -> None:
    with Ext4Reader(base_image.path) as reader:
        manifest = json.loads(reader.read(orders.MANIFEST))
    provenance = manifest.pop("provenance")
    assert manifest == order("base").manifest
    assert manifest["layers"] == ["debian", "system", "agent"]
    assert set(provenance) == set(manifest["layers"])
    debian = provenance["debian"]
    installed = {each["name"]: each for each in debian["artifacts"]}
    assert {"apt", "dpkg", "systemd", "libc6"} <= set(installed)
    assert all(each["digest"].startswith("sha256:") and each["version"] for each in installed.values())
    assert debian["sources"]
    assert set(debian["tools"]) == {"apt", "mmdebstrap"}
    assert manifest["protocol"] == 1


def test_a_password_of_ones_own_is_not_in_the_manifest(base_image: BuiltImage, tmp_path: Path) -> None:
    target = tmp_path / "image.ext4"
    assert run("build", "base", "--output", target, "--set", "system.root_password=hunter22").returncode == 0
    assert b"hunter22" not in target.read_bytes()
    assert b"hunter22" not in target.with_suffix(".json").read_bytes()


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_layer_is_made_again(own_cache: Path, tmp_path: Path, damage: str) -> None:
    agent = order("base").steps[-1]
    blob = own_cache / "bouvet/layers" / agent.digest / "blob"
    if damage == "truncate":
        os.truncate(blob, 1000)
    else:
        content = bytearray(blob.read_bytes())
        content[1000] ^= 1
        blob.write_bytes(content)
    done = run("build", "base", "--output", tmp_path / "image.ext4", cache=own_cache)
    assert done.returncode == 0, done.stderr
    assert "corrupt" in done.stderr
    assert "agent: started (" in done.stderr
    oracles.check_fsck(tmp_path / "image.ext4")


def test_two_builds_at_once(own_cache: Path, tmp_path: Path) -> None:
    """Both make the two small layers and write one image; each ends well, and so does the image."""
    for step in order("base").steps[1:]:
        shutil.rmtree(own_cache / "bouvet/layers" / step.digest)
    builds = [
        subprocess.Popen(
            [BOUVET, "build", "base", "--output", tmp_path / "image.ext4"],
            env={**os.environ, "XDG_CACHE_HOME": str(own_cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for build in builds:
        _, errors = build.communicate(timeout=300)
        assert build.returncode == 0, errors
    oracles.check_fsck(tmp_path / "image.ext4")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bouvet-agent", "image.ext4", "image.json", "own",
    ]  # fmt: skip


def test_a_size_is_kept_and_one_too_small_says_what_is_needed(base_image: BuiltImage, tmp_path: Path) -> None:
    target = tmp_path / "image.ext4"
    small = run("build", "base", "--output", target, "--size", "50M")
    assert small.returncode == 7
    assert not target.exists()
    needed = next(
        word for word in small.stderr.replace(",", " ").split() if word.isdigit() and int(word) > 1e7
    )
    for size in (needed, "300M"):
        done = run("build", "base", "--output", target, "--size", size)
        assert done.returncode == 0, done.stderr
        oracles.check_fsck(target)
    assert target.stat().st_size == 300 << 20


def test_an_output_directory_that_cannot_be_written(base_image: BuiltImage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = run("build", "base", "--output", tmp_path / "file" / "below")
    assert done.returncode == 7
    assert "--output" in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_a_full_disk_leaves_the_old_image(base_image: BuiltImage, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20M", "none", small], check=True)
    try:
        (small / "debian-base.ext4").write_bytes(b"the old image")
        done = run("build", "base", "--output", small)
        assert done.returncode == 7
        assert "No space left" in done.stderr
        assert "disk space" in done.stderr
        assert [path.name for path in small.iterdir()] == ["debian-base.ext4"]
        assert (small / "debian-base.ext4").read_bytes() == b"the old image"
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.needs_tool("mmdebstrap")
def test_an_interrupted_build_leaves_nothing(
    empty_cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The mirror accepts and never answers; the interrupt comes when a package tool waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as mirror:
        mirror.settimeout(60)
        url = f"http://127.0.0.1:{mirror.getsockname()[1]}"
        spec = tmp_path / "spec.toml"
        spec.write_text(f'[debian]\nmirror = "deb [trusted=yes] {url} ./"\n')
        with subprocess.Popen(
            [BOUVET, "build", spec, "--output", tmp_path / "out"], stderr=subprocess.PIPE, text=True
        ) as build:
            connection, _ = mirror.accept()
            build.send_signal(number)
            _, errors = build.communicate(timeout=30)
            connection.close()
    assert build.returncode == 130, errors
    assert "interrupted" in errors
    assert not (tmp_path / "out").exists()
    assert list((empty_cache / "work").iterdir()) == []
    assert list((empty_cache / "layers").iterdir()) == []


@pytest.mark.needs_tool("mmdebstrap")
def test_a_mirror_that_is_down_is_named_with_the_log(empty_cache: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    spec = tmp_path / "spec.toml"
    spec.write_text(f'[debian]\nmirror = "deb [trusted=yes] http://127.0.0.1:{port} ./"\n')
    done = run("build", spec, "--output", tmp_path / "out", cache=empty_cache.parent)
    assert done.returncode == 5, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "hint:" in done.stderr
    assert str(empty_cache / "logs" / "debian.log") in done.stderr
    assert not (tmp_path / "out").exists()
