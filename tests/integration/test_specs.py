"""Specs built as a user builds them: the examples, what a change makes again, and what cannot be built."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet.formats.ext4 import Ext4Reader
from tests.conftest import USER_CACHE, BuiltImage
from tests.formats.ext4 import oracles

BOUVET = Path(sys.executable).with_name("bouvet")
EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.needs_tool("mmdebstrap", "e2fsck"), pytest.mark.slow]


def bouvet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BOUVET, *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(USER_CACHE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def build(spec: Path, target: Path) -> dict[str, Any]:
    done = bouvet("build", spec, "--output", target, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def plan(spec: Path) -> dict[str, dict[str, Any]]:
    done = bouvet("plan", spec, "--json")
    assert done.returncode == 0, done.stderr
    return {step["name"]: step for step in json.loads(done.stdout)["steps"]}


def running(spec: Path) -> set[str]:
    return {name for name, step in plan(spec).items() if not step["cached"]}


@pytest.fixture(scope="module")
def service(base_image: BuiltImage) -> Iterator[tuple[Path, Path]]:
    """A copy of the example with a service, and its image."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as name:
        spec = Path(shutil.copy(EXAMPLES / "service.toml", name))
        build(spec, Path(name) / "service.ext4")
        yield spec, Path(name) / "service.ext4"


def test_a_service_with_packages_an_account_and_files(service: tuple[Path, Path]) -> None:
    _, image = service
    oracles.check_fsck(image)
    with Ext4Reader(image) as reader:
        assert reader.stat(b"usr/bin/busybox").is_regular or reader.stat(b"bin/busybox").is_regular
        assert b"\nPackage: busybox\nStatus: install ok installed\n" in reader.read(b"var/lib/dpkg/status")
        assert reader.read(b"srv/web/index.html") == b"hello from bouvet\n"
        wants = reader.stat(b"etc/systemd/system/multi-user.target.wants/web.service")
        assert wants.target == b"/etc/systemd/system/web.service"
        assert reader.read(b"etc/timezone") == b"Europe/Oslo\n"
        assert b"\nweb:x:1000:1000::/home/web:/bin/sh\n" in reader.read(b"etc/passwd")
        assert b"\nweb:*:" in reader.read(b"etc/shadow")
        assert (reader.stat(b"home/web").uid, reader.stat(b"home/web").mode) == (1000, 0o040700)
        for emptied in (b"var/lib/apt/lists", b"var/cache/apt"):
            assert reader.listdir(emptied) == []
        assert reader.listdir(b"run") == []


def test_the_manifest_carries_the_tests_and_no_texts(service: tuple[Path, Path]) -> None:
    with Ext4Reader(service[1]) as reader:
        manifest = json.loads(reader.read(b"usr/share/bouvet/manifest.json"))
    assert manifest["layers"] == ["debian", "apt", "users", "files", "system", "agent"]
    assert manifest["spec"]["test"]["commands"][0]["name"] == "the service answers"
    assert "hello" not in json.dumps(manifest["spec"]["variables"])
    assert {file["content"] for file in manifest["spec"]["files"]} == {"(set)"}


def test_the_same_spec_in_another_place_gives_the_same_image(
    service: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = Path(shutil.copy(service[0], tmp_path))
    build(spec, tmp_path / "again.ext4")
    assert (tmp_path / "again.ext4").read_bytes() == service[1].read_bytes()


def test_a_plan_says_what_runs_and_why(service: tuple[Path, Path]) -> None:
    spec, image = service
    before = spec.read_text()
    assert running(spec) == set()
    try:
        # The user's cache may have the layers of an earlier test.
        spec.write_text(before.replace("hello from bouvet", f"hello from {uuid.uuid4()}"))
        steps = plan(spec)
        assert {name for name, step in steps.items() if not step["cached"]} == {"files", "system"}
        assert steps["files"]["reasons"] == ["files: changed /srv/web/index.html"]
        build(spec, image)
        assert running(spec) == set()
        spec.write_text(spec.read_text().replace('add = ["busybox", ', 'add = ["busybox", "tree", '))
        steps = plan(spec)
        assert steps["apt"]["reasons"] == ["add: added tree"]
        assert steps["users"]["reasons"] == ["the step below it, apt, changed"]
        assert steps["debian"]["cached"]
    finally:
        spec.write_text(before)
        build(spec, image)


def test_a_package_is_removed_with_what_it_brought(base_image: BuiltImage, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('extends = "base"\n[apt]\nremove = ["isc-dhcp-client"]\n')
    build(spec, tmp_path / "image.ext4")
    with Ext4Reader(tmp_path / "image.ext4") as reader:
        status = reader.read(b"var/lib/dpkg/status")
        assert b"\nPackage: isc-dhcp-client\n" not in status
        assert b"\nPackage: ifupdown\n" in status
        assert b"dhclient" not in reader.listdir(b"usr/sbin")


def test_a_package_that_does_not_exist_is_named(base_image: BuiltImage, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('extends = "base"\n[apt]\nadd = ["there-is-no-such-package"]\n')
    done = bouvet("build", spec, "--output", tmp_path / "image.ext4")
    assert done.returncode == 5
    assert "there is no package 'there-is-no-such-package'" in done.stderr
    assert not (tmp_path / "image.ext4").exists()
    assert "apt" in running(spec)


def test_an_image_beyond_its_budget_names_what_is_large(base_image: BuiltImage, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('extends = "base"\nmax_size = "50M"\n')
    done = bouvet("build", spec, "--output", tmp_path / "image.ext4")
    assert done.returncode == 7
    assert "max_size" in done.stderr
    assert "  libc6" in done.stderr
    assert "  /usr/lib/" in done.stderr
    assert not (tmp_path / "image.ext4").exists()


@contextlib.contextmanager
def crate_registry(directory: Path) -> Iterator[str]:
    """Serve a registry with the program `answer` on the loopback interface (The Cargo Book, sparse index)."""
    crate = io.BytesIO()
    with tarfile.open(fileobj=crate, mode="w:gz") as tar:
        for name in ("Cargo.toml", "Cargo.lock", "src/main.rs"):
            tar.add(EXAMPLES / "project" / name, f"answer-0.1.0/{name}")
    checksum = hashlib.sha256(crate.getvalue()).hexdigest()
    entry = {
        "name": "answer",
        "vers": "0.1.0",
        "deps": [],
        "features": {},
        "cksum": checksum,
        "yanked": False,
    }
    (directory / "an/sw").mkdir(parents=True)
    (directory / "an/sw/answer").write_text(json.dumps(entry) + "\n")
    (directory / "answer.crate").write_bytes(crate.getvalue())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        (directory / "config.json").write_text(json.dumps({"dl": f"{url}/{{crate}}.crate"}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"sparse+{url}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_rust_program_is_compiled_from_a_registry(
    devbox_image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('extends = "devbox"\nnode = false\n[cargo]\npackages = ["answer@0.1.0"]\n')
    (tmp_path / "registry").mkdir()
    with crate_registry(tmp_path / "registry") as index:
        monkeypatch.setenv("CARGO_REGISTRIES_OWN_INDEX", index)
        monkeypatch.setenv("CARGO_REGISTRY_DEFAULT", "own")
        done = bouvet("build", spec, "--output", tmp_path / "image.ext4")
    assert done.returncode == 0, done.stderr
    with Ext4Reader(tmp_path / "image.ext4") as reader:
        assert reader.stat(b"usr/local/cargo/bin/answer").mode == 0o100755
        assert reader.read(b"usr/local/cargo/bin/answer")[:4] == b"\x7fELF"
        assert b"registry" not in reader.listdir(b"usr/local/cargo")
