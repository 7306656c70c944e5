"""The Debian layer made by the real mmdebstrap, from a tiny archive on the loopback interface."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree
from bouvet.layers import debian, namespaces
from bouvet.layers.debian_tree import Settling
from bouvet.layers.layer import Layer
from bouvet.layers.maker import Workshop
from bouvet.layers.store import Store
from bouvet.layers.writer import LayerWriter
from bouvet.plan.steps import DebianInputs
from tests.integration.ordinary_user import REPOSITORY, as_nobody
from tests.integration.tiny_debian import PACKAGED, Archive, architecture, serving

pytestmark = [pytest.mark.needs_tool("mmdebstrap", "unshare", "dpkg-deb", "ldd"), pytest.mark.slow]

NANOSECONDS = 1_000_000_000


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """An archive with its essential package and one more, `greeter`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "archive").mkdir()
    with serving(tmp_path / "archive") as served:
        greeter: dict[str, bytes | Path] = {
            "usr/bin/greet": b"#!/bin/sh\necho hello\n",
            "usr/share/man/man1/greet.1": b"manual\n",
            "usr/share/doc/greeter/copyright": b"free\n",
        }
        postinst = "chown 12:34 /usr/bin/greet\nmkdir -p /var/log\necho log > /var/log/greet.log\n"
        served.add("greeter", greeter, postinst=postinst)
        served.publish()
        yield served


def inputs_of(archive: Archive, *packages: str) -> DebianInputs:
    machines = {"amd64": "x86_64", "arm64": "aarch64"}
    return DebianInputs(
        architecture=machines[architecture()],
        suite="bookworm",
        mirror=archive.mirror,
        packages=packages,
        exclude=("/usr/share/doc/*", "/usr/share/man/*"),
        include=("/usr/share/doc/*/copyright",),
    )


def make(
    store: Store,
    inputs: DebianInputs,
    digest: str = "layer",
    output: Callable[[str], None] = lambda line: None,
) -> Layer:
    """Make a layer as the pipeline does."""

    def fill(writer: LayerWriter) -> None:
        workshop = Workshop(
            scratch=store.scratch(),
            downloads=store.downloads("debian"),
            lower={},
            progress=lambda message, fraction: None,
            output=output,
        )
        debian.make(inputs, workshop, writer)

    return store.make("debian", digest, fill, lambda: None)


def layer_bytes(root: Path, digest: str = "layer") -> dict[str, str]:
    """Return the digests of a committed layer's files."""
    directory = root / "layers" / digest
    return {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in ("index.json", "blob")
    }


def debs(requests: list[str]) -> list[str]:
    return sorted(Path(path).name.partition("_")[0] for path in requests if path.endswith(".deb"))


def test_the_tree(archive: Archive, empty_cache: Path) -> None:
    with Store(empty_cache) as store:
        tree = make(store, inputs_of(archive, "greeter")).tree
        texts = {
            path: inode.content() for path, inode in tree.items() if inode.is_regular and inode.size < 4096
        }
    assert texts[b"usr/bin/greet"] == b"#!/bin/sh\necho hello\n"
    greet = tree[b"usr/bin/greet"]
    assert (greet.uid, greet.gid, greet.mtime) == (12, 34, PACKAGED * NANOSECONDS)
    # What packages may not bring, with the exceptions; and the rule stays in the guest.
    assert b"usr/share/man/man1/greet.1" not in tree
    assert b"usr/share/doc/tiny-base/changelog" not in tree
    assert {b"usr/share/doc/tiny-base/copyright", b"usr/share/doc/greeter/copyright"} <= set(tree)
    assert b"path-exclude=/usr/share/man/*\n" in texts[b"etc/dpkg/dpkg.cfg.d/90slim"]
    assert texts[b"etc/apt/apt.conf.d/90slim"] == debian.APT_SETTINGS.encode()
    assert not any(b"mmdebstrap" in path or b"preferences.d/" in path for path in tree)
    # Nothing of the host, no identity, no trace of the build.
    assert not {b"etc/resolv.conf", b"etc/hostname", b"etc/machine-id", b"var/log/greet.log"} & set(tree)
    assert texts[b"etc/shadow"] == b"root:*::0:99999:7:::\n"
    assert texts[b"etc/apt/sources.list"].decode() == archive.mirror + "\n"
    assert not [path for path in tree if path.startswith((b"dev/", b"var/cache/apt/", b"var/lib/apt/lists/"))]
    assert tree[b"dev"].is_directory
    # /usr is merged from the start.
    assert tree[b"bin"].target == b"usr/bin"
    # The build's own files have the packages' time.
    assert texts[b"etc/made"] == b"made\n"
    assert {inode.mtime for inode in tree.values()} == {PACKAGED * NANOSECONDS}


def test_the_same_packages_give_the_same_bytes(archive: Archive, empty_cache: Path) -> None:
    with Store(empty_cache) as store:
        make(store, inputs_of(archive, "greeter"), "first")
        make(store, inputs_of(archive, "greeter"), "second")
        assert layer_bytes(empty_cache, "first") == layer_bytes(empty_cache, "second")


def test_a_tree_that_needs_more_memory_than_there_is_is_made_on_the_disk(
    archive: Archive, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(empty_cache) as store:
        make(store, inputs_of(archive, "greeter"), "first")
        monkeypatch.setattr(debian, "LEAST_MEMORY", 1)
        monkeypatch.setattr(debian, "available", lambda: 4 << 20)
        archive.requests.clear()
        lines: list[str] = []
        make(store, inputs_of(archive, "greeter"), "second", lines.append)
        assert any("No space left on device" in line for line in lines), "the memory was enough"
        assert debs(archive.requests) == []
        assert layer_bytes(empty_cache, "first") == layer_bytes(empty_cache, "second")


def test_mmdebstrap_alone_makes_the_same_tree(archive: Archive, empty_cache: Path, tmp_path: Path) -> None:
    """Its own way of unpacking and configuring is the reference for ours."""
    add_intricate_packages(archive)
    inputs = inputs_of(archive, "greeter", "intricate", "triggered")
    with Store(empty_cache) as store:
        ours = make(store, inputs).tree
        scratch = tmp_path / "reference"
        scratch.mkdir()
        directories = debian.Directories(scratch)
        options = debian.command(inputs, directories.write_settings(inputs), directories)
        argv = [word for word in options if not word.startswith(("--extract-hook", "--skip"))]
        argv = ["--variant=essential" if word == "--variant=custom" else word for word in argv]
        argv[argv.index(str(directories.tree))] = str(scratch / "tree.tar")
        argv[argv.index("--format=directory")] = "--format=tar"
        argv.insert(1, f"--include={','.join(inputs.packages)}")
        started = int(time.time()) * NANOSECONDS
        entering = [*namespaces.enter_namespaces(), *argv]
        environment = debian.build_environment(scratch)
        subprocess.run(entering, env=environment, check=True, capture_output=True, timeout=120)
        settling = Settling(started)
        reference = LayerWriter(scratch)
        with (scratch / "tree.tar").open("rb") as stream:
            reference.add_tar(stream, settling.keep)
        settling.settle()
        assert b"etc/trigger-ran" in ours
        assert described(ours) == described(reference.tree)


def add_intricate_packages(archive: Archive) -> None:
    """Add packages with all that dpkg does more than unpack files."""
    files: dict[str, bytes | Path] = {
        "etc/intricate.conf": b"setting\n",
        "usr/lib/intricate/program": b"#!/bin/sh\n",
        "usr/share/man/man1/intricate.1": b"manual\n",
        "usr/share/doc/intricate/copyright": b"free\n",
        "usr/share/intricate/empty": b"",
    }
    control = {
        "conffiles": "/etc/intricate.conf\n",
        "preinst": "#!/bin/sh\nset -e\n[ ! -e /usr/lib/intricate ]\n"
        "dpkg-divert --package intricate --rename --divert /usr/bin/greet.real /usr/bin/greet\n",
        "triggers": "activate-noawait greeted\n",
    }
    archive.add("intricate", files, control=control, fields="Pre-Depends: greeter\n")
    control = {"triggers": "interest-noawait greeted\ninterest-noawait /usr/share/intricate\n"}
    postinst = 'echo "$1" >> /etc/trigger-ran\n'
    archive.add("triggered", {"etc/x": b"x"}, postinst=postinst, control=control, depends="unwanted")
    archive.add("unwanted", {"usr/share/unwanted": b"only a dependency"})
    archive.publish()


def described(tree: FileTree) -> dict[bytes, object]:
    """Return all there is to say of each path of a tree."""
    first: dict[int, bytes] = {}
    for path in sorted(tree):
        first.setdefault(id(tree[path]), path)
    return {
        path: (
            first[id(inode)],
            (inode.mode, inode.uid, inode.gid, inode.mtime, inode.target, inode.device, inode.xattrs),
            inode.content(),
        )
        for path, inode in tree.items()
    }


def test_packages_are_downloaded_once(archive: Archive, empty_cache: Path) -> None:
    with Store(empty_cache) as store:
        make(store, inputs_of(archive), "small")
        assert debs(archive.requests) == ["tiny-base"]
        archive.requests.clear()
        make(store, inputs_of(archive, "greeter"), "first")
        assert debs(archive.requests) == ["greeter"]
        archive.requests.clear()
        make(store, inputs_of(archive, "greeter"), "second")
        assert debs(archive.requests) == []


def test_a_damaged_download_is_replaced(archive: Archive, empty_cache: Path) -> None:
    with Store(empty_cache) as store:
        make(store, inputs_of(archive, "greeter"), "first")
        [kept] = store.downloads("debian").glob("greeter_*")
        content = kept.read_bytes()
        # The same size: apt itself would take it.
        kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        archive.requests.clear()
        make(store, inputs_of(archive, "greeter"), "second")
        assert debs(archive.requests) == ["greeter"]
        assert layer_bytes(empty_cache, "first") == layer_bytes(empty_cache, "second")


def test_an_unknown_package_is_named_and_nothing_stays(archive: Archive, empty_cache: Path) -> None:
    with Store(empty_cache) as store:
        with pytest.raises(LayerError) as caught:
            make(store, inputs_of(archive, "nosuch"))
        assert "'nosuch'" in caught.value.message
        assert caught.value.hint
        assert any("mmdebstrap" in line for line in caught.value.details)
        assert not store.has("layer")
        assert not list((empty_cache / "work").glob("*/*/tree"))


def test_a_mirror_that_is_down(archive: Archive, empty_cache: Path) -> None:
    inputs = replace(inputs_of(archive), mirror="deb [trusted=yes] http://127.0.0.1:1 ./")
    with Store(empty_cache) as store, pytest.raises(LayerError) as caught:
        make(store, inputs)
    assert "the server 127.0.0.1:1 cannot be read" in caught.value.message


BUILD = """
import json, sys
from pathlib import Path
from bouvet.layers.store import Store
from bouvet.plan.steps import DebianInputs
from tests.integration.test_debian_layer import make
fields = json.loads(sys.argv[2])
fields.update({name: tuple(fields[name]) for name in ("packages", "exclude", "include")})
with Store(Path(sys.argv[1])) as store:
    make(store, DebianInputs(**fields))
"""


def build_command(cache: Path, inputs: DebianInputs) -> list[str]:
    """Return a command that makes a layer in a process of its own."""
    return [sys.executable, "-c", BUILD, str(cache), json.dumps(asdict(inputs))]


def test_a_killed_build_leaves_no_process_and_no_mount(archive: Archive, empty_cache: Path) -> None:
    archive.add("sleeper", {"usr/share/sleeper": b""}, postinst="exec sleep 86399\n")
    archive.publish()
    command = build_command(empty_cache, inputs_of(archive, "sleeper"))
    with subprocess.Popen(command, cwd=REPOSITORY) as child:
        try:
            wait_for(lambda: processes_running("sleep 86399"), child)
        finally:
            child.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_running("sleep 86399"))
    assert str(empty_cache) not in Path("/proc/self/mountinfo").read_text()


def processes_running(command_line: str) -> bool:
    """Return whether a process with exactly this command line runs."""
    wanted = command_line.replace(" ", "\0").encode() + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == wanted:
                return True
    return False


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[bytes] | None = None) -> None:
    """Look every few milliseconds until the condition holds; fail after a minute or when the child ends."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        assert child is None or child.poll() is None, "the build ended"
        time.sleep(0.02)


@pytest.mark.needs_root
@pytest.mark.needs_tool("newuidmap", "setpriv")
def test_an_ordinary_user_gets_the_same_bytes(
    archive: Archive, empty_cache: Path, nobodys_directory: Path
) -> None:
    inputs = inputs_of(archive, "greeter")
    with Store(empty_cache) as store:
        make(store, inputs)
    cache = nobodys_directory / "cache"
    done = as_nobody(nobodys_directory, build_command(cache, inputs), subordinate="nobody:100000:65536\n")
    assert done.returncode == 0, done.stderr
    assert layer_bytes(cache) == layer_bytes(empty_cache)


@pytest.mark.needs_root
@pytest.mark.needs_tool("newuidmap", "setpriv")
def test_an_ordinary_user_without_subordinate_ids_is_told(archive: Archive, nobodys_directory: Path) -> None:
    command = build_command(nobodys_directory / "cache", inputs_of(archive))
    done = as_nobody(nobodys_directory, command, subordinate="")
    assert done.returncode != 0
    assert "LayerError: this host does not let an ordinary user make trees with other owners" in done.stderr
