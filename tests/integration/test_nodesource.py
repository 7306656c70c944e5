"""An archive beside Debian's own, signed with a key of the test, installed from by the real mmdebstrap."""

from __future__ import annotations

import functools
import http.server
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bouvet import download
from bouvet.errors import BouvetError, LayerError
from bouvet.formats.tree import FileTree
from bouvet.layers import apt_archive, debian
from bouvet.layers.store import Store
from bouvet.layers.writer import LayerWriter
from bouvet.order import Order
from bouvet.plan import plan_layers
from bouvet.plan.provenance import Locked, Provenance
from bouvet.plan.steps import DebianInputs
from bouvet.spec import Spec
from tests.integration.tiny_debian import Archive, architecture, run
from tests.integration.tiny_debian import serving as serving_debian
from tests.unit.layers.bench import bench

pytestmark = [pytest.mark.needs_tool("mmdebstrap", "unshare", "dpkg-deb", "ldd", "gpg"), pytest.mark.slow]


@dataclass
class NodeSource:
    """An archive laid out as NodeSource's: suite `nodistro`, component `main`."""

    directory: Path
    gnupg: Path
    url: str = ""
    fingerprint: str = ""

    @property
    def key(self) -> Path:
        return self.directory / "gpgkey" / "nodesource-repo.gpg.key"

    def gpg(self, *arguments: str) -> str:
        return run("gpg", "--batch", "--quiet", f"--homedir={self.gnupg}", *arguments)

    def make_key(self) -> None:
        """Make the signing key, and publish its public half."""
        self.gnupg.mkdir(mode=0o700)
        name = "NodeSource <test@example.org>"
        self.gpg("--pinentry-mode=loopback", "--passphrase=", "--quick-generate-key", name, "ed25519", "sign")
        rows = [line.split(":") for line in self.gpg("--with-colons", "--list-keys").splitlines()]
        self.fingerprint = next(row[9] for row in rows if row[0] == "fpr")
        self.key.parent.mkdir(parents=True)
        self.key.write_text(self.gpg("--armor", "--export", self.fingerprint))

    def publish(self, packages: Archive) -> None:
        """Write the indexes over another archive's packages, and sign them."""
        place = self.directory / "dists" / "nodistro" / "main" / f"binary-{architecture()}"
        place.mkdir(parents=True, exist_ok=True)
        packages.publish()
        text = (packages.directory / "Packages").read_text().replace("Filename: ./", "Filename: pool/")
        (place / "Packages").write_text(text)
        (self.directory / "pool").mkdir(exist_ok=True)
        for package in packages.directory.glob("*.deb"):
            (self.directory / "pool" / package.name).write_bytes(package.read_bytes())
        digest = run("sha256sum", str(place / "Packages")).split()[0]
        release = self.directory / "dists" / "nodistro" / "Release"
        release.write_text(
            f"Origin: . nodistro\nLabel: . nodistro\nCodename: nodistro\nArchitectures: {architecture()}\n"
            f"Components: main\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n {digest} {len(text.encode())} "
            f"main/binary-{architecture()}/Packages\n"
        )
        signed = str(release.with_name("InRelease"))
        self.gpg("--pinentry-mode=loopback", "--yes", "--clear-sign", f"--output={signed}", str(release))


@pytest.fixture(scope="module")
def debian_archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """A Debian archive with its essential package, and an older Node.js."""
    with serving_debian(tmp_path_factory.mktemp("debian")) as served:
        served.add("nodejs", {"usr/bin/node": b"Debian's"}, version="18.20.4+dfsg-1~deb12u1")
        served.publish()
        yield served


@pytest.fixture
def nodesource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeSource]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    packages = Archive(tmp_path / "packages")
    packages.directory.mkdir()
    node: dict[str, bytes | Path] = {
        "usr/bin/node": b"NodeSource's",
        "usr/lib/node_modules/npm/docs/x.md": b"long",
        "usr/lib/node_modules/npm/package.json": b"{}",
    }
    packages.add("nodejs", node, version="20.19.1-1nodesource1")
    packages.add("tiny-base", {"etc/evil": b"not from here"}, version="9.0", essential=True)
    source = NodeSource(tmp_path / "nodesource", tmp_path / "gnupg")
    source.make_key()
    source.publish(packages)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    handler = functools.partial(Handler, directory=str(source.directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        source.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield source
        finally:
            server.shutdown()
            thread.join()
            subprocess.run(
                ["gpgconf", f"--homedir={source.gnupg}", "--kill", "gpg-agent"], check=True, timeout=30
            )


def spec_of(debian_archive: Archive, nodesource: NodeSource, **node: str) -> Spec:
    """Return a spec with NodeSource's Node.js."""
    node = {
        "source": "nodesource",
        "server": nodesource.url,
        "key": f"{nodesource.url}/gpgkey/nodesource-repo.gpg.key",
        "fingerprint": nodesource.fingerprint,
        **node,
    }
    return Spec.model_validate({"debian": {"mirror": debian_archive.mirror}, "node": node, "agent": False})


def inputs_of(debian_archive: Archive, nodesource: NodeSource, version: str = "20") -> DebianInputs:
    """Return its Debian step."""
    spec = spec_of(debian_archive, nodesource, version=version)
    code = {"debian": "1", "system": "1"}
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture()]
    step, *others = plan_layers(spec, machine, code=code, agent="")  # type: ignore[arg-type]
    assert [other.name for other in others] == ["system"], "no layer of its own"
    assert isinstance(step.inputs, DebianInputs)
    return step.inputs


made_from: list[Provenance] = []
"""What the layers of a test were made from."""


def make(inputs: DebianInputs, cache: Path) -> tuple[FileTree, dict[bytes, bytes]]:
    """Make the layer as the pipeline does; return its tree, and its files' content."""
    with Store(cache) as store:

        def fill(writer: LayerWriter) -> None:
            workshop = replace(
                bench(store.scratch()).workshop,
                scratch=store.scratch(),
                downloads=store.downloads("debian"),
            )
            debian.make(inputs, workshop, writer)

        made = store.make("debian", "layer", fill, lambda: None)
        made_from.append(made.provenance)
        tree = made.tree
        small = {path: inode for path, inode in tree.items() if inode.is_regular and inode.size < 8192}
        return tree, {path: inode.content() for path, inode in small.items()}


@pytest.mark.parametrize("version", ["20", "20.19.1"])
def test_nodejs_comes_from_there_and_nothing_else(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path, version: str
) -> None:
    tree, texts = make(inputs_of(debian_archive, nodesource, version), empty_cache)
    assert texts[b"usr/bin/node"] == b"NodeSource's"
    assert b"etc/evil" not in tree, "an archive brings only what it is asked for"
    assert b"usr/lib/node_modules/npm/package.json" in tree
    assert b"usr/lib/node_modules/npm/docs/x.md" not in tree
    source = texts[b"etc/apt/sources.list.d/nodesource.sources"].decode()
    assert "BEGIN PGP PUBLIC KEY BLOCK" in source
    assert nodesource.url in source
    assert b"Package: nodejs\n" in texts[b"etc/apt/preferences.d/nodesource"]
    assert tree[b"etc/apt/sources.list.d/nodesource.sources"].mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["path", "text", "binary"])
def test_the_key_may_be_a_file_or_its_text(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path, tmp_path: Path, kind: str
) -> None:
    key = str(nodesource.key)
    if kind == "text":
        key = nodesource.key.read_text()
    if kind == "binary":
        key = "keys/key.gpg"
        (tmp_path / "keys").mkdir()
        nodesource.gpg(f"--output={tmp_path / key}", "--export", nodesource.fingerprint)
    order = Order(spec_of(debian_archive, nodesource, key=key), "x86_64", "box", tmp_path)
    inputs = order.steps[0].inputs
    assert isinstance(inputs, DebianInputs)
    workshop = replace(bench(tmp_path).workshop, sources=order.sources)
    commands = apt_archive.hooks(inputs.archives[0], workshop)
    assert len(commands) == 2
    [text] = [path.read_text() for path in workshop.scratch.rglob("sources.list.d-*")]
    assert "\n .\n" in text
    assert "BEGIN PGP PUBLIC KEY BLOCK" in text


def spoil(nodesource: NodeSource, path: str, how: str) -> None:
    """Change a published file."""
    file = next(nodesource.directory.glob(path))
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("pool/nodejs_*", "corrupt"),
        ("pool/nodejs_*", "missing"),
        ("dists/nodistro/main/*/Packages", "cut"),
        ("dists/nodistro/InRelease", "corrupt"),
        ("gpgkey/*", "missing"),
        ("gpgkey/*", "cut"),
    ],
)
def test_what_is_spoilt_is_refused(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path, path: str, how: str
) -> None:
    inputs = inputs_of(debian_archive, nodesource)
    spoil(nodesource, path, how)
    with pytest.raises(BouvetError):
        make(inputs, empty_cache)
    assert list((empty_cache / "layers").iterdir()) == []


def test_another_key_names_both_fingerprints(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path
) -> None:
    inputs = inputs_of(debian_archive, nodesource)
    [archive] = inputs.archives
    wrong = replace(archive, fingerprint="0" * 40)
    with pytest.raises(LayerError) as caught:
        make(replace(inputs, archives=(wrong,)), empty_cache)
    assert caught.value.details == (
        f"expected fingerprint {'0' * 40}",
        f"found fingerprint    {nodesource.fingerprint}",
    )


def test_a_version_that_the_archive_does_not_have(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path
) -> None:
    with pytest.raises(LayerError, match="not installed"):
        make(inputs_of(debian_archive, nodesource, "22"), empty_cache)


def test_a_locked_nodejs_is_taken_though_there_is_a_newer_one(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path, tmp_path: Path
) -> None:
    inputs = inputs_of(debian_archive, nodesource)
    make(inputs, empty_cache)
    told = made_from.pop()
    assert told.sources == (debian_archive.mirror, f"deb {nodesource.url} nodistro main")
    [nodejs] = [each for each in told.artifacts if each.name == "nodejs"]
    assert (nodejs.version, nodejs.path) == (
        "20.19.1-1nodesource1",
        "pool/" + f"nodejs_{nodejs.version}_{architecture()}.deb",
    )
    newer = Archive(tmp_path / "newer")
    newer.directory.mkdir()
    newer.add("nodejs", {"usr/bin/node": b"newer"}, version="20.19.2-1nodesource1")
    nodesource.publish(newer)
    locked = replace(inputs, locked=Locked(told.artifacts, told.sources))
    tree, texts = make(locked, tmp_path / "other-cache")
    assert texts[b"usr/bin/node"] == b"NodeSource's"
    assert made_from.pop().artifacts == told.artifacts
    # The guest's apt knows the archive as ever, and nothing of the lock.
    assert b"etc/apt/sources.list.d/nodesource.sources" in tree
    assert b"etc/apt/preferences.d/nodesource" in tree
    assert not [
        path for path in tree if path.startswith(b"etc/apt/") and path.rpartition(b"/")[2].startswith(b"lock")
    ]
    assert texts[b"etc/apt/sources.list"].decode() == debian_archive.mirror + "\n"


def test_an_archive_that_hangs_is_named(
    debian_archive: Archive, nodesource: NodeSource, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # apt's own timeout is 30 seconds, and it tries again.
    quickly = 'Acquire::http::Timeout "1";\nAcquire::Retries "0";\n'
    monkeypatch.setattr(debian, "APT_SETTINGS", debian.APT_SETTINGS + quickly)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts; nobody answers
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        [archive] = inputs_of(debian_archive, nodesource).archives
        hanging = replace(archive, url=f"http://{host}")
        with pytest.raises(LayerError, match=f"the server {host} cannot be read") as caught:
            make(replace(inputs_of(debian_archive, nodesource), archives=(hanging,)), empty_cache)
    assert any("Connection failed" in line for line in caught.value.details)
    assert list((empty_cache / "layers").iterdir()) == []
    tree, _ = make(inputs_of(debian_archive, nodesource), empty_cache)
    assert b"usr/bin/node" in tree, "the next build does without"
