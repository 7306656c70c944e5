"""Images that came from containers: checked by what holds for any distribution, and only by that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet.booting import image_architecture
from bouvet.formats.ext4 import Ext4Options, plan_filesystem, write_filesystem
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.image.verify import check_image
from bouvet.layers import agent
from bouvet.spec import Spec

SERVICE = {
    "arguments": ["app"],
    "environment": ["PATH=/bin"],
    "user": "",
    "directory": "/",
    "network": "dhcp",
}


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def container_tree() -> FileTree:
    """Return a tree of musl's kind: no Debian, no systemd, no bash."""
    spec = Spec.model_validate({"from": "oci:layout"}).model_dump(mode="json")
    manifest = {"name": "box", "architecture": "x86_64", "spec": spec}
    tree: FileTree = {name: directory() for name in (b"dev", b"proc", b"run", b"sys", b"tmp")}
    return tree | {
        b"bin/app": regular_file(b"#!/bin/sh\n", 0o755),
        b"lib/ld-musl-x86_64.so.1": regular_file(b"musl", 0o755),
        b"sbin/init": symlink(b"/" + agent.PATH),
        agent.PATH: regular_file(agent.binary("x86_64"), 0o755),
        b"etc/bouvet/service.json": regular_file(as_json(SERVICE)),
        b"etc/fstab": regular_file(b"/dev/vda / ext4 defaults 0 1\n"),
        b"etc/hostname": regular_file(b"bouvet\n"),
        b"etc/hosts": regular_file(b"127.0.0.1 localhost\n127.0.1.1 bouvet\n"),
        b"usr/share/bouvet/manifest.json": regular_file(as_json(manifest)),
    }


def write_image(path: Path, tree: FileTree) -> Path:
    with path.open("xb") as file:
        write_filesystem(plan_filesystem(tree, Ext4Options(label="bouvet-rootfs")), file.fileno())
    return path


def failed(path: Path, tree: FileTree) -> list[str]:
    return [row.requirement for row in check_image(write_image(path, tree)).failed]


def test_a_distribution_without_debians_things_passes(tmp_path: Path) -> None:
    report = check_image(write_image(tmp_path / "image", container_tree()))
    assert report.failed == ()
    (row,) = [row for row in report.rows if row.requirement == "what applies to any distribution is checked"]
    assert re.match(r"[1-9][0-9] requirements on Debian", row.found)


def with_service(**changes: object) -> Callable[[FileTree], None]:
    def change(tree: FileTree) -> None:
        tree[b"etc/bouvet/service.json"] = regular_file(as_json(SERVICE | changes))

    return change


INIT = "an init: systemd that starts the agent, or the agent itself"
RUN = "what a container would run is there, and so is its program"

TAMPERED: list[tuple[str, Callable[[FileTree], object]]] = [
    (INIT, lambda tree: tree.pop(b"sbin/init")),
    (INIT, lambda tree: tree.update({b"sbin/init": symlink(b"/bin/app")})),
    (INIT, lambda tree: tree.update({b"sbin/init": symlink(b"/lib/systemd/systemd"),
                                     b"lib/systemd/systemd": regular_file(b"x", 0o755)})),
    ("directories for the kernel's file systems", lambda tree: tree.pop(b"proc")),
    ("directories for the kernel's file systems", lambda tree: tree.update({b"sys": symlink(b"/tmp")})),
    (RUN, lambda tree: tree.pop(b"etc/bouvet/service.json")),
    (RUN, lambda tree: tree.update({b"etc/bouvet/service.json": regular_file(b"[" * 100_000)})),
    (RUN, lambda tree: tree.update({b"etc/bouvet/service.json": directory()})),
    (RUN, with_service(arguments="app")),
    (RUN, with_service(arguments=["absent"])),
    (RUN, with_service(arguments=["/bin/absent"])),
    (RUN, lambda tree: tree.update({b"bin/app": regular_file(b"#!/bin/sh\n", 0o644)})),
    ("/etc/hostname", lambda tree: tree.update({b"etc/hostname": regular_file(b"other\n")})),
    ("no machine-id baked in", lambda tree: tree.update({b"etc/machine-id": regular_file(b"1" * 32)})),
    ("a static executable for the image's architecture",
     lambda tree: tree.update({agent.PATH: regular_file(agent.binary("aarch64"), 0o755)})),
]  # fmt: skip


@pytest.mark.parametrize(("row", "tamper"), TAMPERED)
def test_what_is_tampered_with_fails_its_row(
    tmp_path: Path, row: str, tamper: Callable[[FileTree], object]
) -> None:
    tree = container_tree()
    tamper(tree)
    assert row in failed(tmp_path / "image", tree)


@pytest.mark.parametrize("arguments", [[], ["/bin/app", "-x"], ["bin/app"]])
def test_whatever_runs_is_looked_for_as_the_guest_does(tmp_path: Path, arguments: list[str]) -> None:
    tree = container_tree()
    with_service(arguments=arguments)(tree)
    assert failed(tmp_path / "image", tree) == []


@pytest.mark.parametrize(
    ("tree", "architecture"),
    [
        ({b"lib/ld-musl-aarch64.so.1": regular_file(b"x")}, "aarch64"),
        (
            {b"lib64": symlink(b"usr/lib64"), b"usr/lib64/ld-linux-x86-64.so.2": regular_file(b"x")},
            "x86_64",
        ),
        ({b"lib": symlink(b"usr/lib"), b"usr/lib/ld-linux-aarch64.so.1": regular_file(b"x")}, "aarch64"),
        ({agent.PATH: regular_file(agent.binary("aarch64"), 0o755)}, "aarch64"),
        ({b"bin/sh": symlink(b"busybox"), b"bin/busybox": regular_file(agent.binary("aarch64"))}, "aarch64"),
        ({b"bin/sh": directory()}, "x86_64"),
    ],
    ids=["musl", "merged /usr", "merged /usr, aarch64", "agent", "static shell", "none: the host's"],
)
def test_the_architecture_is_told(
    tmp_path: Path, tree: FileTree, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert image_architecture(write_image(tmp_path / "image", tree)) == architecture


def test_the_architecture_of_a_read_only_file_system_is_told_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    image, description = tmp_path / "image.squashfs", tmp_path / "image.squashfs.json"
    image.write_bytes(b"hsqs" + bytes(4096))
    assert image_architecture(image) == "x86_64"
    for told, found in (("aarch64", "aarch64"), ("vax", "x86_64"), ([], "x86_64")):
        description.write_text(json.dumps({"manifest": {"architecture": told}}))
        assert image_architecture(image) == found
