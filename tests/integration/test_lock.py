"""Locks against an archive on the loopback interface: what is written, taken again, refused, and updated."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bouvet.formats.ext4 import Ext4Reader
from tests.integration.tiny_debian import Archive, architecture, serving

pytestmark = [pytest.mark.needs_tool("mmdebstrap", "unshare", "dpkg-deb", "ldd"), pytest.mark.slow]

BOUVET = Path(sys.executable).with_name("bouvet")
KERNEL = "0" * 64

SPEC = """
agent = false
[debian]
mirror = "{mirror}"
packages = ["greeter"]
[kernel]
source = "url"
url = {{ x86_64 = "http://127.0.0.1:1/vmlinux", aarch64 = "http://127.0.0.1:1/Image" }}
sha256 = {{ x86_64 = "{kernel}", aarch64 = "{kernel}" }}
"""


@dataclass
class Project:
    """A spec with its archive and cache."""

    directory: Path
    archive: Archive
    cache: Path

    @property
    def lock(self) -> dict[str, Any]:
        [image] = tomllib.loads((self.directory / "bouvet.lock").read_text())["image"]
        found: dict[str, Any] = image
        return found

    @property
    def versions(self) -> dict[str, str]:
        return {each["name"]: each["version"] for each in self.lock["steps"]["debian"]["artifacts"]}

    def bouvet(self, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BOUVET, *arguments],
            cwd=self.directory,
            env={**os.environ, "XDG_CACHE_HOME": str(self.cache), "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stderr
        return done

    def build(self, name: str = "image.ext4", *options: str) -> Path:
        target = self.directory / name
        self.bouvet("build", "spec.toml", "--locked", "--output", target, *options)
        return target

    def publish(self, version: str) -> None:
        """Publish a version of both small packages."""
        for name in ("greeter", "helper"):
            self.archive.add(
                name, {f"usr/share/{name}": version.encode()}, version=version, depends=DEPENDS[name]
            )
        self.archive.publish()

    def withdraw(self, pattern: str) -> None:
        """Take files out of the archive."""
        for path in self.archive.directory.glob(pattern):
            path.unlink()
        self.archive.publish()


DEPENDS = {"greeter": "helper", "helper": ""}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Path]]:
    """A spec that was locked once, and a copy of its archive as it was then."""
    directory = tmp_path_factory.mktemp("locked")
    (directory / "archive").mkdir()
    with serving(directory / "archive") as archive:
        made = Project(directory / "project", archive, directory / "project/cache")
        made.directory.mkdir()
        made.publish("1:1.0")
        (made.directory / "spec.toml").write_text(SPEC.format(mirror=archive.mirror, kernel=KERNEL))
        made.bouvet("lock", "spec.toml")
        then = directory / "then"
        shutil.copytree(archive.directory, then)
        yield made, then


@pytest.fixture
def project(locked: tuple[Project, Path], tmp_path: Path) -> Project:
    """The same for one test, which may change all of it."""
    made, then = locked
    shutil.rmtree(made.archive.directory)
    shutil.copytree(then, made.archive.directory)
    directory = tmp_path / "project"
    shutil.copytree(made.directory, directory)
    return Project(directory, made.archive, directory / "cache")


def content(image: Path, path: bytes) -> bytes:
    with Ext4Reader(image) as reader:
        return reader.read(path)


def test_a_lock_names_everything(project: Project) -> None:
    lock = project.lock
    greeter = next(each for each in lock["steps"]["debian"]["artifacts"] if each["name"] == "greeter")
    [package] = project.archive.directory.glob("greeter_*")
    assert greeter == {
        "name": "greeter",
        "version": "1:1.0",
        "architecture": architecture(),
        "digest": "sha256:" + hashlib.sha256(package.read_bytes()).hexdigest(),
        "path": package.name,
    }
    assert set(project.versions) == {"tiny-base", "greeter", "helper"}
    assert lock["steps"]["debian"]["sources"] == [project.archive.mirror]
    assert lock["kernel"]["digest"] == f"sha256:{KERNEL}"
    before = (project.directory / "bouvet.lock").read_bytes()
    done = project.bouvet("lock", "spec.toml", "--json")
    assert (project.directory / "bouvet.lock").read_bytes() == before
    assert json.loads(done.stdout) == {"path": "bouvet.lock", "artifacts": 3, "changes": []}


def test_a_locked_build_takes_what_was_locked(project: Project) -> None:
    project.publish("1:2.0")
    image = project.build()
    assert content(image, b"usr/share/greeter") == content(image, b"usr/share/helper") == b"1:1.0"
    assert content(image, b"etc/apt/sources.list").decode() == project.archive.mirror + "\n"
    with Ext4Reader(image) as reader:
        assert b"lock" not in b" ".join(reader.listdir(b"etc/apt/sources.list.d"))
        manifest = json.loads(reader.read(b"usr/share/bouvet/manifest.json"))
    told = manifest["provenance"]["debian"]
    assert {each["name"]: each["version"] for each in told["artifacts"]} == project.versions
    assert told["sources"] == [project.archive.mirror]
    assert set(told["tools"]) == {"apt", "mmdebstrap"}


def test_what_cannot_be_had_is_listed(project: Project) -> None:
    project.publish("1:2.0")
    project.withdraw("*_1*1.0_*")
    (project.cache / "bouvet").rename(project.directory / "other")
    done = project.bouvet("build", "spec.toml", "--locked", status=14)
    assert "2 of 3 packages of the lock cannot be had" in done.stderr
    assert "greeter 1:1.0" in done.stderr
    assert "helper 1:1.0" in done.stderr
    assert "debian.snapshot" in done.stderr
    assert not list(project.directory.glob("**/*.ext4"))


def test_a_snapshot_has_what_the_mirror_has_no_longer(project: Project) -> None:
    old = {path.name: path.read_bytes() for path in project.archive.directory.glob("*_1*1.0_*")}
    project.publish("1:2.0")
    project.withdraw("*_1*1.0_*")
    (project.cache / "bouvet").rename(project.directory / "other")
    (project.archive.directory / "then").mkdir()
    for name, package in old.items():
        (project.archive.directory / "then" / name).write_bytes(package)
    snapshot = project.archive.mirror.replace(" ./", "/then ./")
    image = project.build("image.ext4", "--set", f'debian.snapshot="{snapshot}"')
    assert content(image, b"usr/share/greeter") == b"1:1.0"


def test_one_package_is_updated_alone(project: Project) -> None:
    project.publish("1:2.0")
    done = project.bouvet("lock", "spec.toml", "--update", "helper")
    assert "debian: helper 1:1.0 -> 1:2.0" in done.stdout
    assert project.versions == {"tiny-base": "1.0", "greeter": "1:1.0", "helper": "1:2.0"}
    image = project.build()
    assert content(image, b"usr/share/greeter") == b"1:1.0"
    assert content(image, b"usr/share/helper") == b"1:2.0"
    done = project.bouvet("lock", "spec.toml", "--update", "nothing", status=14)
    assert "has no nothing" in done.stderr


def test_everything_is_updated(project: Project) -> None:
    project.publish("1:2.0")
    project.bouvet("lock", "spec.toml")
    assert project.versions["helper"] == "1:1.0"
    project.bouvet("lock", "spec.toml", "--update")
    assert project.versions == {"tiny-base": "1.0", "greeter": "1:2.0", "helper": "1:2.0"}


def test_a_spec_that_asks_for_more_does_not_fit(project: Project) -> None:
    spec = project.directory / "spec.toml"
    spec.write_text(spec.read_text().replace('["greeter"]', '["greeter", "other"]'))
    project.archive.add("other", {"usr/share/other": b"other"})
    project.publish("1:2.0")
    done = project.bouvet("build", "spec.toml", "--locked", status=14)
    assert "debian: the spec asks for something else than was locked" in done.stderr
    project.bouvet("lock", "spec.toml")
    assert project.versions == {"tiny-base": "1.0", "greeter": "1:1.0", "helper": "1:1.0", "other": "1.0"}
    assert content(project.build(), b"usr/share/other") == b"other"


def test_other_bytes_of_the_same_version_are_refused(project: Project) -> None:
    [package] = project.archive.directory.glob("greeter_*")
    damaged = bytearray(package.read_bytes())
    damaged[-1] ^= 1
    package.write_bytes(damaged)
    (project.cache / "bouvet").rename(project.directory / "other")
    done = project.bouvet("build", "spec.toml", "--locked", status=14)
    assert "1 of 3 packages of the lock cannot be had" in done.stderr
    assert "is not the file that was asked for" in done.stderr


def test_there_is_no_lock(project: Project) -> None:
    (project.directory / "bouvet.lock").unlink()
    assert "bouvet lock" in project.bouvet("build", "spec.toml", "--locked", status=14).stderr
    (project.directory / "bouvet.lock").write_text("version = 99\n")
    assert "version 99" in project.bouvet("build", "spec.toml", "--locked", status=14).stderr
