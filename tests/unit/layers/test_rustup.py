"""rustup and its toolchains from a distribution server, judged by the real rustup."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet import download
from bouvet.errors import BouvetError, DownloadError, LayerError, LockError
from bouvet.formats.tree import FileTree
from bouvet.layers import rustup
from bouvet.layers.maker import Workshop
from bouvet.layers.writer import LayerWriter
from bouvet.plan.provenance import Locked, Provenance
from bouvet.plan.steps import RustupInputs
from tests.unit.layers.bench import bench
from tests.unit.layers.file_server import FAULTS, HARMLESS_FAULTS, FileServer, serving
from tests.unit.layers.rust_distribution import (
    AARCH64,
    DATE,
    RUSTUP_VERSION,
    VERSION,
    X86_64,
    Distribution,
    Package,
    packages,
    program,
)

pytestmark = pytest.mark.needs_tool("gcc")

MANIFEST = "dist/channel-rust-stable.toml"
ARCHIVE = f"dist/{DATE}/rustc-{VERSION}-{X86_64}.tar.xz"
BINARY = f"rustup/archive/{RUSTUP_VERSION}/{X86_64}/rustup-init"
HOME = b"usr/local/rustup/"
TOOLCHAIN = HOME + b"toolchains/stable-" + X86_64.encode() + b"/"
BIN = b"usr/local/cargo/bin/"


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """The tree of a server that has the channel `stable`."""
    distribution = Distribution()
    distribution.publish()
    return distribution.files


@pytest.fixture
def server(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    with serving() as started:
        started.files |= published
        yield started


@pytest.fixture
def inputs(server: FileServer) -> RustupInputs:
    return RustupInputs("x86_64", "stable", ("clippy", "rustfmt"), server.url)


class Making:
    """Makes layers with a workshop in a directory, and the downloads that it keeps."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writers: list[LayerWriter] = []

    def __call__(self, inputs: RustupInputs, workshop: Workshop | None = None) -> FileTree:
        place = self._directory / f"layer-{len(self._writers)}"
        place.mkdir()
        writer = LayerWriter(place)
        self._writers.append(writer)
        rustup.make(inputs, workshop or bench(self._directory).workshop, writer)
        return writer.tree

    @property
    def provenance(self) -> Provenance:
        """What the last layer was made from."""
        return self._writers[-1].provenance

    def commit(self) -> list[tuple[bytes, bytes]]:
        """Finish the layers; return each one's index and blob."""
        indexes = [writer.commit() for writer in self._writers]
        return [
            (index, (self._directory / f"layer-{number}" / "blob").read_bytes())
            for number, index in enumerate(indexes)
        ]

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Making]:
    making = Making(tmp_path)
    yield making
    making.close()


def extract(tree: FileTree, directory: Path) -> None:
    """Write a layer's entries below a directory."""
    for path, inode in sorted(tree.items()):
        place = directory / os.fsdecode(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if inode.is_symlink:
            place.symlink_to(os.fsdecode(inode.target))
        elif inode.is_regular:
            place.write_bytes(inode.content())
            place.chmod(stat.S_IMODE(inode.mode))


# --- The layout ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Installed:
    """The layer's files in a directory, and rustup in it."""

    root: Path
    server: str

    def run(self, *argv: str) -> str:
        """Run a tool of `cargo/bin`; return what it prints on standard output."""
        local = self.root / "usr" / "local"
        environment = {
            "PATH": f"{local}/cargo/bin:/usr/bin:/bin",
            "HOME": str(self.root),
            "CARGO_HOME": f"{local}/cargo",
            "RUSTUP_HOME": f"{local}/rustup",
            "RUSTUP_DIST_SERVER": self.server,
            "RUSTUP_UPDATE_ROOT": f"{self.server}/rustup",
            "no_proxy": "127.0.0.1",
        }
        program = local / "cargo" / "bin" / argv[0]
        done = subprocess.run(
            [program, *argv[1:]], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def installed(make: Making, inputs: RustupInputs, server: FileServer, tmp_path: Path) -> Installed:
    tree = make(inputs)
    extract(tree, tmp_path / "root")
    return Installed(tmp_path / "root", server.url)


def test_rustup_knows_the_toolchain_and_runs_its_tools(installed: Installed) -> None:
    shown = installed.run("rustup", "show")
    assert f"stable-{X86_64} (active, default)" in shown
    assert installed.run("rustup", "toolchain", "list", "--verbose").startswith(f"stable-{X86_64}")
    assert installed.run("cargo", "+stable", "--version").startswith(f"cargo {VERSION}")
    for name in ("rustc", "cargo", "clippy-driver", "cargo-clippy", "rustfmt"):
        assert VERSION in installed.run(name, "--version")


def test_rustup_lists_what_is_installed(installed: Installed) -> None:
    listed = installed.run("rustup", "component", "list").splitlines()
    assert {line.split()[0] for line in listed if line.endswith("(installed)")} == {
        f"{name}-{X86_64}" for name in ("cargo", "clippy", "rust-std", "rustc", "rustfmt")
    }
    assert {f"rust-docs-{X86_64}", "rust-src"} <= set(listed)
    assert installed.run("rustup", "target", "list", "--installed").split() == [X86_64]


def test_rustup_finds_nothing_to_update(installed: Installed, server: FileServer) -> None:
    assert "up to date" in installed.run("rustup", "check").lower()
    server.requests.clear()
    installed.run("rustup", "update", "--no-self-update", "stable")
    assert not [path for path in server.requests if ".tar." in path], "nothing is downloaded again"


def test_rustup_can_add_and_remove_components(installed: Installed) -> None:
    toolchain = installed.root / os.fsdecode(TOOLCHAIN)
    installed.run("rustup", "component", "add", "rust-src")
    assert (toolchain / "lib/rustlib/src/rust/library/core/lib.rs").is_file()
    # All that is on its list has to be there, or rustup refuses.
    for name in ("clippy", "rustfmt", "rust-src"):
        installed.run("rustup", "component", "remove", name)
    assert not (toolchain / "bin" / "cargo-clippy").exists()
    left = installed.run("rustup", "component", "list", "--installed").split()
    assert left == [f"cargo-{X86_64}", f"rust-std-{X86_64}", f"rustc-{X86_64}"]


def test_rustup_replaces_the_toolchain_by_the_channels_next_one(
    installed: Installed, server: FileServer
) -> None:
    distribution = Distribution()
    contents = packages()
    rustc = contents["rustc"]
    contents["rustc"] = Package({**rustc.files, "bin/rust-gdb": b"#!/bin/sh\n"})
    distribution.publish(contents=contents)
    server.files |= distribution.files
    installed.run("rustup", "update", "--no-self-update", "stable")
    assert (installed.root / os.fsdecode(TOOLCHAIN) / "bin" / "rust-gdb").is_file()


def test_what_we_lay_out_is_what_rustup_lays_out(
    installed: Installed, server: FileServer, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    binary = theirs / "usr" / "local" / "cargo" / "bin" / "rustup"
    binary.parent.mkdir(parents=True)
    binary.write_bytes(server.files[BINARY])
    binary.chmod(0o755)
    other = Installed(theirs, server.url)
    other.run("rustup", "set", "profile", "minimal")
    argv = ("toolchain", "install", "stable", "--component", "clippy", "--component", "rustfmt")
    other.run("rustup", *argv, "--no-self-update")
    other.run("rustup", "default", f"stable-{X86_64}")
    ours, rustups = files_below(installed.root / os.fsdecode(HOME)), files_below(theirs / os.fsdecode(HOME))
    # The manifest is the server's here; rustup writes it anew.
    records = f"toolchains/stable-{X86_64}/lib/rustlib/"
    del (
        ours[f"{records}multirust-channel-manifest.toml"],
        rustups[f"{records}multirust-channel-manifest.toml"],
    )
    # rustup lists components as their downloads end.
    for each in (ours, rustups):
        each[f"{records}components"] = b"\n".join(sorted(each[f"{records}components"].split()))
    # Documentation is left out of the files and the lists.
    documents = {path for path in rustups if path not in ours}
    assert {path.partition("/share/")[2] for path in documents} == {
        "doc/rust/README.md", "doc/rust/COPYRIGHT.html", "man/man1/rustc.1"
    }  # fmt: skip
    rustc = f"{records}manifest-rustc-{X86_64}"
    rustups[rustc] = b"".join(
        line for line in rustups[rustc].splitlines(keepends=True) if line in ours[rustc].splitlines(True)
    )
    assert ours == {path: content for path, content in rustups.items() if path not in documents}


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_the_layer(make: Making, inputs: RustupInputs, server: FileServer, tmp_path: Path) -> None:
    equipment = bench(tmp_path)
    tree = make(inputs, equipment.workshop)
    links = {path: inode.target for path, inode in tree.items() if inode.is_symlink}
    assert links == {BIN + name: b"rustup" for name in rustup.PROXIES}
    assert {(inode.uid, inode.gid) for inode in tree.values()} == {(0, 0)}
    assert tree[BIN + b"rustup"].content() == server.files[BINARY]
    assert stat.S_IMODE(tree[TOOLCHAIN + b"bin/rustc"].mode) == 0o755
    digest = hashlib.sha256(server.files[MANIFEST]).hexdigest()
    assert tree[HOME + b"update-hashes/stable-" + X86_64.encode()].content() == digest[:20].encode()
    assert not {path for path in tree if b"/man/" in path or path.endswith((b".md", b".html", b".sh"))}
    assert TOOLCHAIN + b"share/doc/rust/licenses/MIT.txt" in tree
    assert b"usr/local" not in tree, "Debian's own directories are not ours to change"
    # The smaller archives, and each thing once.
    assert len(server.requests) == len(set(server.requests))
    assert not [path for path in server.requests if path.endswith(".gz") or "docs" in path]
    assert any("downloading" in message for message, _ in equipment.messages)


def test_the_same_server_gives_the_same_bytes(make: Making, inputs: RustupInputs) -> None:
    make(inputs)
    make(inputs)
    first, second = make.commit()
    assert first == second


def test_downloads_are_kept_and_the_next_versions_replace_them(
    make: Making, inputs: RustupInputs, server: FileServer, tmp_path: Path
) -> None:
    make(inputs)
    kept = set((tmp_path / "downloads").iterdir())
    assert len(kept) == 6
    server.requests.clear()
    make(inputs)
    assert not [path for path in server.requests if ".tar." in path or path.endswith("rustup-init")]
    distribution = Distribution()
    contents = packages()
    contents["cargo"] = Package({**contents["cargo"].files, "etc/new": b"new"})
    distribution.publish(contents=contents)
    server.files |= distribution.files
    make(inputs)
    now = set((tmp_path / "downloads").iterdir())
    assert len(now) == 6
    assert len(now - kept) == 1


def test_a_damaged_kept_file_is_fetched_again(make: Making, inputs: RustupInputs, tmp_path: Path) -> None:
    make(inputs)
    for path in (tmp_path / "downloads").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    tree = make(inputs)
    assert TOOLCHAIN + b"bin/rustc" in tree


def test_a_foreign_architecture_needs_none_of_its_code(make: Making, server: FileServer) -> None:
    # e_machine is the 19th byte of the ELF header: 183 is AArch64.
    foreign = bytearray(program("foreign"))
    foreign[18] = 183
    distribution = Distribution()
    distribution.publish(rustup={AARCH64: bytes(foreign)})
    server.files |= distribution.files
    tree = make(RustupInputs("aarch64", "stable", ("clippy",), server.url))
    assert HOME + b"toolchains/stable-" + AARCH64.encode() + b"/bin/rustc" in tree
    assert f'default_toolchain = "stable-{AARCH64}"'.encode() in tree[HOME + b"settings.toml"].content()
    assert not [path for path in server.requests if X86_64 in path]


def test_another_architectures_rustup_is_refused(make: Making, server: FileServer) -> None:
    distribution = Distribution()
    distribution.publish(rustup={AARCH64: program("foreign")})
    server.files |= distribution.files
    with pytest.raises(LayerError, match="for x86_64, not for aarch64"):
        make(RustupInputs("aarch64", "stable", (), server.url))


@pytest.mark.parametrize(
    ("channel", "published_as", "toolchain"),
    [
        ("1.95.0", "channel-rust-1.95.0.toml", "1.95.0"),
        ("nightly-2026-04-16", "2026-04-16/channel-rust-nightly.toml", "nightly-2026-04-16"),
    ],
)
def test_other_channels(
    make: Making, server: FileServer, channel: str, published_as: str, toolchain: str
) -> None:
    for suffix in ("", ".sha256"):
        server.files[f"dist/{published_as}{suffix}"] = server.files.pop(MANIFEST + suffix)
    tree = make(RustupInputs("x86_64", channel, (), server.url))
    assert HOME + f"toolchains/{toolchain}-{X86_64}/bin/rustc".encode() in tree


def test_components_of_other_targets_and_documentation(make: Making, server: FileServer) -> None:
    wanted = (f"rust-std-{AARCH64}", "rust-docs", "rust-src")
    distribution = Distribution()
    distribution.publish()
    text = distribution.files[MANIFEST].decode()
    extension = f'[[pkg.rust.target.{X86_64}.extensions]]\npkg = "rust-std"\ntarget = "{AARCH64}"\n\n'
    distribution._add_with_digest(MANIFEST, text.replace("[profiles]", extension + "[profiles]").encode())
    server.files |= distribution.files
    tree = make(RustupInputs("x86_64", "stable", wanted, server.url))
    assert TOOLCHAIN + f"lib/rustlib/{AARCH64}/lib/libcore.rlib".encode() in tree
    assert TOOLCHAIN + b"share/doc/rust/html/index.html" in tree, "what is asked for by name stays"
    assert TOOLCHAIN + b"lib/rustlib/src/rust/x" in tree
    assert TOOLCHAIN + b"lib/rustlib/manifest-rust-src" in tree


# --- What goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", [ARCHIVE, MANIFEST, f"{MANIFEST}.sha256", BINARY])
def test_a_bad_download_is_refused_and_the_next_run_recovers(
    make: Making, server: FileServer, tmp_path: Path, path: str, fault: str
) -> None:
    inputs = RustupInputs("x86_64", "stable", ("clippy", "rustfmt"), server.url)
    server.faults[path] = fault
    with pytest.raises(BouvetError) as caught:
        make(inputs)
    if fault == "hanging":
        assert "127.0.0.1: the server was silent" in caught.value.message
    if fault == "corrupt" and not path.endswith(".sha256"):
        expected, found = (line.split()[-1] for line in caught.value.details)
        assert expected == hashlib.sha256(server.files[path]).hexdigest()
        assert found not in {expected, ""}
    kept = {kept.name for kept in (tmp_path / "downloads").iterdir()}
    assert hashlib.sha256(server.files[path]).hexdigest() not in {name.rpartition(".")[2] for name in kept}
    assert list((tmp_path / "scratch").iterdir()) == []
    server.faults.clear()
    tree = make(inputs)
    assert TOOLCHAIN + b"bin/rustc" in tree


@pytest.mark.parametrize("fault", HARMLESS_FAULTS)
@pytest.mark.parametrize("path", [ARCHIVE, MANIFEST, BINARY])
def test_a_difficult_server_is_lived_with(
    make: Making, inputs: RustupInputs, server: FileServer, path: str, fault: str
) -> None:
    server.faults[path] = fault
    tree = make(inputs)
    assert TOOLCHAIN + b"bin/rustc" in tree
    assert len([asked for asked in server.requests if asked.endswith(path)]) == 2


def test_one_failure_ends_the_other_downloads(
    make: Making, inputs: RustupInputs, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rustup, "LARGEST_ARCHIVE", 1 << 50)
    server.faults[BINARY] = "endless"
    server.faults[ARCHIVE] = "missing"
    with pytest.raises(DownloadError, match="404"):
        make(inputs)


def test_a_build_that_is_being_ended_waits_for_no_download(
    make: Making, inputs: RustupInputs, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rustup, "LARGEST_ARCHIVE", 1 << 50)
    server.faults[BINARY] = "endless"
    workshop = bench(tmp_path).workshop

    def end(message: str, _: float | None) -> None:
        if "so far" in message:
            workshop.cancelled.set()

    with pytest.raises(DownloadError, match="it was ended"):
        make(inputs, dataclasses.replace(workshop, progress=end))


def test_an_unknown_component_is_named(make: Making, server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="no component 'clipy'"):
        make(RustupInputs("x86_64", "stable", ("clipy",), server.url))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_component_that_a_day_lacks_is_named(make: Making, server: FileServer) -> None:
    text = server.files[MANIFEST].decode()
    table = f"[pkg.clippy-preview.target.{X86_64}]\navailable = "
    distribution = Distribution()
    distribution._add_with_digest(MANIFEST, text.replace(f"{table}true", f"{table}false").encode())
    server.files |= distribution.files
    with pytest.raises(LayerError, match="no 'clippy-preview' for x86_64"):
        make(RustupInputs("x86_64", "stable", ("clippy",), server.url))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"not toml",
        b'manifest-version = "3"\ndate = 2026-01-01\n',
        b'manifest-version = "2"\ndate = "2026-01-01"\n[pkg]\n[profiles]\n',
        b"a = " + b"[" * 5000,
    ],
)
def test_what_is_no_manifest_is_refused(
    make: Making, inputs: RustupInputs, server: FileServer, content: bytes
) -> None:
    distribution = Distribution()
    distribution._add_with_digest(MANIFEST, content)
    server.files |= distribution.files
    with pytest.raises(LayerError, match="is no manifest"):
        make(inputs)


@pytest.mark.parametrize("text", [b"", b"\xff", b"version = 1", b'version = "../../x"'])
def test_what_does_not_tell_rustups_version_is_refused(
    make: Making, inputs: RustupInputs, server: FileServer, text: bytes
) -> None:
    server.files["rustup/release-stable.toml"] = text
    with pytest.raises(LayerError, match="does not tell rustup's version"):
        make(inputs)


# --- Locks --------------------------------------------------------------------------------------------


def test_a_locked_toolchain_is_that_of_its_day(
    server: FileServer, inputs: RustupInputs, make: Making
) -> None:
    tree = make(inputs)
    told = make.provenance
    named = {each.name: each for each in told.artifacts}
    assert named["channel-rust"].version == DATE
    assert named["channel-rust"].sha256 == hashlib.sha256(server.files[MANIFEST]).hexdigest()
    assert named["rustup-init"].version == RUSTUP_VERSION
    assert named[f"rustc-{X86_64}"].version == VERSION
    assert named[f"rustc-{X86_64}"].sha256 == hashlib.sha256(server.files[ARCHIVE]).hexdigest()
    assert told.sources == (server.url,)
    # The channel goes on, and the day stays.
    server.files[f"dist/{DATE}/channel-rust-stable.toml"] = server.files[MANIFEST]
    server.files[MANIFEST] = b"newer"
    server.files[f"{MANIFEST}.sha256"] = f"{hashlib.sha256(b'newer').hexdigest()}".encode()
    del server.files["rustup/release-stable.toml"]
    locked = dataclasses.replace(inputs, locked=Locked(told.artifacts, told.sources))
    again = make(locked)
    assert make.provenance == told
    first, second = make.commit()
    assert first == second
    assert set(tree) == set(again)


def test_a_locked_toolchain_that_is_gone_is_named(
    server: FileServer, inputs: RustupInputs, make: Making
) -> None:
    make(inputs)
    artifacts = make.provenance.artifacts
    before = server.files[MANIFEST]
    server.files[MANIFEST] += b"# changed\n"
    with pytest.raises(LockError) as caught:
        make(dataclasses.replace(inputs, locked=Locked(artifacts)))
    assert f"channel-rust {DATE}" in caught.value.details
    assert caught.value.hint is not None
    with pytest.raises(LockError, match="says nothing of rustup-init"):
        make(
            dataclasses.replace(
                inputs, locked=Locked(tuple(each for each in artifacts if each.name != "rustup-init"))
            )
        )
    # What is left open is chosen anew.
    server.files[MANIFEST] = before
    make(dataclasses.replace(inputs, locked=Locked((), complete=False)))


def test_a_lock_of_other_components_is_refused(
    server: FileServer, inputs: RustupInputs, make: Making
) -> None:
    make(inputs)
    artifacts = make.provenance.artifacts
    with pytest.raises(LockError, match="is not what the lock says") as caught:
        make(dataclasses.replace(inputs, components=("clippy",), locked=Locked(artifacts)))
    assert any("rustfmt" in line and "was not installed" in line for line in caught.value.details)
