"""One lock, two builds that differ in all that could show: the same image and the same OCI archive."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.ordinary_user import NOBODY, as_nobody
from tests.integration.tiny_debian import Archive, serving

pytestmark = [
    pytest.mark.needs_tool("mmdebstrap", "unshare", "dpkg-deb", "ldd", "taskset"),
    pytest.mark.slow,
]

BOUVET = Path(sys.executable).with_name("bouvet")
SPEC = """
[debian]
mirror = "{mirror}"
packages = ["greeter"]
[kernel]
source = "url"
url = {{ x86_64 = "http://127.0.0.1:1/vmlinux", aarch64 = "http://127.0.0.1:1/Image" }}
sha256 = {{ x86_64 = "{digest}", aarch64 = "{digest}" }}
[[files]]
path = "/srv/tree"
source = "tree"
[[files]]
path = "/etc/inline"
content = "inline"
mode = "0600"
owner = "12"
[[run]]
name = "what-scripts-make"
script = '''
mkdir -p /srv/made/directory /srv/made/another
echo "$LANG $LC_ALL $TZ $HOME $PWD $(umask)" > /srv/made/environment
for name in i I z a; do echo $name > /srv/made/$name; done
env > /srv/made/env
'''
"""


@dataclass(frozen=True)
class Circumstances:
    """What differs between two builds.

    Attributes:
        directory: The directory of the spec.
        umask: The mask of new files' modes.
        variables: Time zone, locale and what else is set.
        cores: The processors it may use, as of `taskset`.
    """

    directory: Path
    umask: str
    variables: Mapping[str, str]
    cores: str

    def prepare(self, mirror: str, lock: bytes | None) -> None:
        """Write the spec and what it copies, and the lock."""
        mask = os.umask(int(self.umask, 8))
        try:
            tree = self.directory / "tree/below"
            tree.mkdir(parents=True)
            for name in ("one", "Two", "three"):
                (tree / name).write_text(name)
            (tree / "program").write_text("#!/bin/sh\n")
            (tree / "program").chmod(0o777 & ~int(self.umask, 8))
            text = SPEC.format(mirror=mirror, digest=hashlib.sha256(b"kernel").hexdigest())
            (self.directory / "box.toml").write_text(text)
            if lock is not None:
                (self.directory / "bouvet.lock").write_bytes(lock)
        finally:
            os.umask(mask)

    def command(self, *, locks: bool) -> list[str]:
        """Return the command that builds both, and locks before if that is asked for."""
        bouvet = f"taskset --cpu-list {self.cores} {shlex.quote(str(BOUVET))}"
        lines = [f"umask {self.umask}", f"cd {shlex.quote(str(self.directory))}"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.variables.items()]
        lines += [f"{bouvet} lock box.toml --quiet"] * locks
        lines.append(f"{bouvet} build box.toml --locked --quiet --output image.ext4")
        lines.append(f"{bouvet} oci box.toml --locked --quiet --output archive.tar")
        return ["sh", "-euc", "\n".join(lines)]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of what was built."""
        names = ("image.ext4", "archive.tar")
        return {name: hashlib.sha256((self.directory / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "archive").mkdir()
    with serving(tmp_path / "archive") as served:
        postinst = "mkdir -p /var/lib/greeter /var/log\nenv > /var/log/greeter.log\n"
        served.add("greeter", {"usr/bin/greet": b"#!/bin/sh\necho hello\n"}, postinst=postinst)
        served.publish()
        yield served


@pytest.fixture
def nobodys_directory() -> Iterator[Path]:
    """A directory of the user nobody, not in one of root's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as made:
        os.chown(made, NOBODY, NOBODY)
        yield Path(made)


def own(directory: Path) -> None:
    """Give a tree to the user nobody."""
    for place, names, files in os.walk(directory):
        for each in (".", *names, *files):
            os.chown(Path(place, each), NOBODY, NOBODY)


@pytest.mark.needs_root
@pytest.mark.needs_tool("newuidmap", "setpriv")
def test_two_builds_of_one_lock_are_the_same_bytes(
    archive: Archive, empty_cache: Path, tmp_path: Path, nobodys_directory: Path
) -> None:
    processors = sorted(os.sched_getaffinity(0))
    ours = Circumstances(
        tmp_path / "a", "022", {"TZ": "UTC", "LC_ALL": "C.UTF-8", "LANG": "C"}, str(processors[0])
    )
    ours.directory.mkdir()
    ours.prepare(archive.mirror, None)
    done = subprocess.run(ours.command(locks=True), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    built = int(time.time())

    place = nobodys_directory / "a much longer name of a directory" / "b"
    place.mkdir(parents=True)
    variables = {
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "SOURCE_DATE_EPOCH": "1",
        "HOSTNAME": "elsewhere",
    }
    theirs = Circumstances(place, "077", variables, ",".join(map(str, processors[:2])))
    theirs.prepare(archive.mirror, (ours.directory / "bouvet.lock").read_bytes())
    own(nobodys_directory)
    done = as_nobody(nobodys_directory, theirs.command(locks=False), subordinate="nobody:100000:65536\n")
    assert done.returncode == 0, done.stderr
    assert int(time.time()) > built, "at another time"
    assert (place / "image.ext4").stat().st_uid == NOBODY
    assert theirs.digests() == ours.digests()


def test_what_a_package_brings_shows(archive: Archive, empty_cache: Path, tmp_path: Path) -> None:
    """The proof above would not hold if the bytes were the same whatever is built."""
    found = []
    for name in ("a", "b"):
        if name == "b":
            archive.add("greeter", {"usr/bin/greet": b"#!/bin/sh\necho hullo\n"})
            archive.publish()
            (empty_cache).rename(tmp_path / "other")
        build = Circumstances(tmp_path / name, "022", {}, "0")
        build.directory.mkdir()
        build.prepare(archive.mirror, None)
        done = subprocess.run(
            build.command(locks=True), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(build.digests())
    assert found[0]["image.ext4"] != found[1]["image.ext4"]
    assert found[0]["archive.tar"] != found[1]["archive.tar"]
