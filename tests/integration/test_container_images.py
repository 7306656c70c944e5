"""Container images that the field's own tools made, read; and our own archives, read back."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.errors import CommandFailed, LockError
from bouvet.exporting import export, export_image
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.tree import FileTree, directory
from bouvet.layers import agent, container
from bouvet.layers.merge import merge
from bouvet.layers.oci import apply_layer
from bouvet.layers.oci_source import ContainerImage, find_image, pull
from bouvet.layers.oci_stream import open_layer
from bouvet.layers.writer import LayerWriter
from bouvet.locking import locked_order, read_lock, write_lock
from bouvet.order import Order
from bouvet.pipeline import build
from bouvet.plan.provenance import Artifact
from bouvet.spec import Spec
from tests.conftest import TOOL_PATH
from tests.integration.test_oci import base, changes
from tests.unit.image.archives import CREATED, SECOND, write
from tests.unit.layers.container_images import Blob, Layout, entry, folder, symlink, tar

TIMEOUT = 60
KERNEL = {
    "source": "url",
    "url": {"x86_64": "http://127.0.0.1:1/vmlinux"},
    "sha256": {"x86_64": "0" * 64},
}
"""A kernel that need not be fetched to be locked."""
Find = functools.partial(find_image, architecture="x86_64", directory=Path(), downloads=Path("/nonexistent"))


def run(*argv: str | Path) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def read(image: ContainerImage, directory: Path) -> FileTree:
    """Apply all layers of an image."""
    merged: FileTree = {}
    directory.mkdir()
    for number, blob in enumerate(image.layers):
        (directory / str(number)).mkdir()
        layer = LayerWriter(directory / str(number))
        place = blob.place
        with open_layer(place.path, place.offset, place.size, blob.digest, blob.diff_id) as stream:
            apply_layer(stream, merged, layer)
        merged = merge([merged, layer.tree])
    return merged


def facts(tree: FileTree) -> dict[bytes, tuple[object, ...]]:
    """Return everything about a tree that can be compared, hard links by their first name."""
    first: dict[int, bytes] = {}
    return {
        path: (
            inode.mode, inode.uid, inode.gid, inode.mtime, inode.size, inode.target, inode.device,
            inode.xattrs, inode.content() if inode.is_regular else b"", first.setdefault(id(inode), path),
        )
        for path, inode in sorted(tree.items())
    }  # fmt: skip


def whole() -> FileTree:
    """Return what the archive's layers make: its writer adds the directories that they leave out."""
    tree = merge([base(), changes()])
    for path in list(tree):
        while path := path.rpartition(b"/")[0]:
            tree.setdefault(path, directory(mtime=CREATED * SECOND))
    return tree


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oci") / "image.tar"
    write(path, base(), changes(), name="team/box", tag="v1", entrypoint=("/bin/app",), user="7")
    return path


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_our_archives_are_read_back_as_they_were(archive: Path, tmp_path: Path, transport: str) -> None:
    image = Find(f"{transport}:{archive}:v1")
    assert image.configuration.entrypoint == ("/bin/app",)
    assert facts(read(image, tmp_path / "read")) == facts(whole())


@pytest.mark.needs_tool("skopeo")
@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("oci:{}", ("--dest-compress-format", "gzip")),
        ("oci:{}", ("--dest-compress-format", "zstd")),
        ("docker-archive:{}:team/box:v1", ()),
    ],
    ids=["gzip", "zstd", "docker"],
)
def test_what_skopeo_copies_is_read(
    archive: Path, tmp_path: Path, target: str, options: tuple[str, ...]
) -> None:
    copied = target.format(tmp_path / "copied")
    run("skopeo", "copy", *options, f"oci-archive:{archive}:v1", copied)
    tree = read(Find(copied), tmp_path / "read")
    assert facts(tree) == facts(whole())


@pytest.mark.needs_tool("umoci")
def test_what_umoci_makes_is_read(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:v1")
    run("umoci", "unpack", "--rootless", "--image", f"{layout}:v1", tmp_path / "bundle")
    root = tmp_path / "bundle" / "rootfs"
    (root / "etc").mkdir()
    (root / "etc" / "kept").write_text("kept")
    (root / "etc" / "gone").write_text("gone")
    run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:v1", tmp_path / "bundle")
    (root / "etc" / "gone").unlink()
    (root / "etc" / "link").symlink_to("kept")
    run("umoci", "repack", "--image", f"{layout}:v1", tmp_path / "bundle")
    run("umoci", "config", "--image", f"{layout}:v1", "--config.user", "app", "--config.env", "A=b")
    image = Find(f"oci:{layout}:v1")
    tree = read(image, tmp_path / "read")
    assert sorted(path for path in tree if path) == [b"etc", b"etc/kept", b"etc/link"]
    assert (image.configuration.user, dict(image.configuration.environment)["A"]) == ("app", "b")


# --- From an image to images and back -----------------------------------------------------------------


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Order:
    """A container image whose programs are scripts, as the base of one of ours."""
    directory = tmp_path_factory.mktemp("base")
    layout = Layout(directory / "layout")
    tree = tar(
        folder("usr"), folder("usr/bin"), symlink("bin", "usr/bin"), symlink("sbin", "usr/bin"),
        entry("usr/bin/app", b"#!/bin/app\n", mode=0o755), symlink("usr/bin/init", "busybox"),
        folder("etc"), entry("etc/shadow", b"root:!:1::::::\n", mode=0o640),
    )  # fmt: skip
    config = {"Env": ["PATH=/usr/bin", "MULTILINE=a\nb", "A=b"], "Cmd": ["app"], "WorkingDir": "/srv/x"}
    layout.index(layout.image([Blob.gzipped(tree)], config=config))
    spec = Spec.model_validate(
        {"from": "oci:layout", "free": "1M", "system": {"hostname": "box", "root_password": "secret"}}
    )
    return Order(spec, "x86_64", "box", directory)


def test_a_container_image_becomes_a_guest(order: Order, tmp_path: Path) -> None:
    target = tmp_path / "image.ext4"
    first = build(order, target, cache=tmp_path / "cache")
    with Ext4Reader(target) as reader:
        tree = reader.tree()
        assert tree[b"usr/bin/init"].target == b"/" + agent.PATH
        assert tree[b"sbin"].target == b"usr/bin"
        assert tree[b"srv/x"].is_directory
        assert tree[b"etc/environment"].content() == b"PATH=/usr/bin\nA=b\n"
        assert b'"MULTILINE=a\\nb"' in tree[container.SERVICE].content()
        assert b"root:$6$" in tree[b"etc/shadow"].content()
        assert str(tmp_path).encode() not in tree[b"usr/share/bouvet/manifest.json"].content()
    assert [name for name, _ in first.layers] == ["oci-1", "system", "agent"]


def test_where_an_image_lies_makes_no_other_image(order: Order, tmp_path: Path) -> None:
    """An archive of the same layers is the same base, apart from what the manifest says of it."""
    assert order.container is not None
    run("tar", "-C", order.directory / "layout", "-cf", tmp_path / "image.tar", ".")
    spec = order.spec.model_copy(update={"from_": f"oci-archive:{tmp_path}/image.tar"})
    other = Order(spec, "x86_64", "box", tmp_path)
    assert [step.digest for step in other.steps] == [step.digest for step in order.steps]


def test_exports_keep_the_configuration_and_the_tree(order: Order, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    built = build(order, tmp_path / "image.ext4", cache=cache)
    layered = export(order, tmp_path / "layered.tar", cache=cache)
    single = export_image(built.image, tmp_path / "single.tar", name="box")
    again = export_image(built.image, tmp_path / "again.tar", name="box")
    assert (len(layered.layers), len(single.layers)) == (4, 1)
    assert (tmp_path / "single.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    assert single.manifest == again.manifest
    with Ext4Reader(built.image) as reader:
        tree = {path: inode for path, inode in reader.tree().items() if path and path != b"lost+found"}
        expected = facts(tree)
    for number, archive in enumerate((layered.archive, single.archive)):
        image = Find(f"oci-archive:{archive}")
        assert image.configuration.command == ("app",)
        assert image.configuration.directory == "/srv/x"
        found = read(image, tmp_path / f"read-{number}")
        assert {path: fact for path, fact in facts(found).items() if path} == expected


# --- A registry ---------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry on the loopback; skopeo is told by the user's own settings that it has no TLS."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    settings = tmp_path / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    registries = tmp_path / "home" / ".config" / "containers" / "registries.conf"
    registries.parent.mkdir(parents=True)
    registries.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    program = shutil.which("docker-registry", path=TOOL_PATH) or ""
    with subprocess.Popen(
        [program, "serve", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _await_listening(address, server)
            yield address
        finally:
            server.kill()


def _await_listening(address: str, server: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@pytest.mark.needs_tool("skopeo", "docker-registry")
def test_a_registrys_image_is_copied_once(
    archive: Path, registry: str, tmp_path: Path, empty_cache: Path
) -> None:
    run("skopeo", "copy", f"oci-archive:{archive}:v1", f"docker://{registry}/team/box:v1")
    spec = Spec.model_validate({"from": f"docker://{registry}/team/box:v1"})
    order = Order(spec, "x86_64", "box")
    assert order.container is not None
    assert [layer.diff_id for layer in order.container.layers] == [
        layer.diff_id for layer in Find(f"oci-archive:{archive}:v1").layers
    ]
    copies = empty_cache / "downloads" / "oci"
    (copy,) = copies.iterdir()
    before = copy.stat().st_ino
    order.fetch(refresh=False)
    assert copy.stat().st_ino == before
    order.fetch(refresh=True)
    assert copy.stat().st_ino != before
    with pytest.raises(CommandFailed) as raised:
        pull(f"docker://{registry}/team/absent:v1", "x86_64", copies, lambda line: None)
    assert raised.value.hint is not None
    assert [path.name for path in copies.iterdir()] == [copy.name]


@pytest.mark.needs_tool("skopeo", "docker-registry")
def test_a_locked_image_is_had_by_its_digest(
    archive: Path, registry: str, tmp_path: Path, empty_cache: Path
) -> None:
    reference = f"docker://{registry}/team/box:v1"
    run("skopeo", "copy", f"oci-archive:{archive}:v1", reference)
    spec = Spec.model_validate({"from": reference, "kernel": KERNEL})
    order, lock = Order(spec, "x86_64", "box"), tmp_path / "bouvet.lock"
    write_lock(order, "box", lock)
    container = read_lock(lock)["box", "x86_64"].container
    assert order.container is not None
    assert container[0] == Artifact(reference, digest=order.container.digest)
    assert [each.digest for each in container[1:]] == [each.diff_id for each in order.container.layers]
    # The tag goes on to another image, and the copy is gone.
    layout = Layout(tmp_path / "other")
    layout.index(layout.image([Blob.gzipped(tar(folder("etc")))]))
    run("skopeo", "copy", f"oci:{tmp_path}/other", reference)
    shutil.rmtree(empty_cache / "downloads")
    locked = locked_order(Order(spec, "x86_64", "box"), "box", lock)
    assert locked.container is not None
    assert locked.container.layers == tuple(
        dataclasses.replace(mine, path=theirs.path)
        for mine, theirs in zip(order.container.layers, locked.container.layers, strict=True)
    )
    unlocked = Order(spec, "x86_64", "box")
    assert unlocked.container is not None
    assert unlocked.container.digest != locked.container.digest
    moved = spec.model_copy(update={"from_": f"oci:{tmp_path}/other"})
    with pytest.raises(LockError) as raised:
        _ = Order(moved, "x86_64", "box", container_lock=container).container
    assert any("is in the lock and was not installed" in line for line in raised.value.details)
