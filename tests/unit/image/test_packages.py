"""Packages in a tree: of every kind, nested, hostile."""

from __future__ import annotations

import json

import pytest

from bouvet.formats.tree import BLOCK, MemorySource, Segment, regular_file
from bouvet.image.packages import Package, find_packages
from tests.unit.image.package_tree import MODULES, SITE, package_tree

PURLS = {
    "pkg:cargo/ripgrep@14.1.0",
    "pkg:deb/debian/libbig@1:2.0%2Bdfsg-1?arch=amd64&distro=debian-12",
    "pkg:deb/debian/python3-pip@23.0?arch=all&distro=debian-12",
    "pkg:generic/node@20.1.2",
    "pkg:generic/rust@1.90.0",
    "pkg:npm/%40scope/a@1.0.0",
    "pkg:npm/npm@9.0.0",
    "pkg:pypi/flask-login@1.0",
}


def packages() -> dict[str, Package]:
    return {package.purl: package for package in find_packages(package_tree()).packages}


def test_every_kind_and_nothing_else() -> None:
    found = find_packages(package_tree())
    assert {package.purl for package in found.packages} == PURLS
    assert len(found.packages) == len(PURLS)
    assert found.unread == ()
    assert packages()["pkg:pypi/flask-login@1.0"].licence == "MIT"


@pytest.mark.parametrize(
    ("purl", "blocks", "files"),
    [
        ("pkg:deb/debian/libbig@1:2.0%2Bdfsg-1?arch=amd64&distro=debian-12", 3, 1),  # /lib is /usr/lib
        ("pkg:deb/debian/python3-pip@23.0?arch=all&distro=debian-12", 1, 1),
        ("pkg:pypi/flask-login@1.0", 3, 3),  # METADATA, a module, a script elsewhere; RECORD names not itself
        ("pkg:npm/npm@9.0.0", 2, 2),  # without the package inside of it
        ("pkg:npm/%40scope/a@1.0.0", 3, 2),
        ("pkg:generic/node@20.1.2", 2, 2),
        ("pkg:generic/rust@1.90.0", 2, 2),
        ("pkg:cargo/ripgrep@14.1.0", 1, 1),
    ],
)
def test_what_a_package_takes(purl: str, blocks: int, files: int) -> None:
    package = packages()[purl]
    assert (package.size, package.files) == (blocks * BLOCK, files)


def test_a_distroless_image_tells_of_its_packages_in_parts() -> None:
    tree = package_tree()
    tree[b"var/lib/dpkg/status.d/tzdata"] = regular_file(b"Package: tzdata\nVersion: 1\nArchitecture: all\n")
    tree[b"var/lib/dpkg/status.d/tzdata.md5sums"] = regular_file(b"Package: no\nVersion: 1\n")
    assert {package.name for package in find_packages(tree).packages if package.kind == "deb"} == {
        "libbig",
        "python3-pip",
        "tzdata",
    }


def test_alpine() -> None:
    installed = (
        "C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nF:lib\nR:ld-musl.so.1\na:0:0:755\nZ:Q1=\nF:etc/musl\nR:conf\n"
        "\nP:busybox\nV:1.36.1-r15\nA:x86_64\nL:GPL-2.0-only\nF:\nR:top\nF:bin\nR:busybox\n\n"
    )
    tree = {
        b"etc/os-release": regular_file(b"ID=alpine\nVERSION_ID=3.19.1\n"),
        b"lib/apk/db/installed": regular_file(installed.encode()),
        b"lib/ld-musl.so.1": regular_file(bytes(BLOCK + 1)),
        b"etc/musl/conf": regular_file(b"x"),
        b"top": regular_file(b"x"),
        b"usr/bin/busybox": regular_file(b"x"),
    }
    found = find_packages(tree)
    assert found.unread == ()
    assert [(package.purl, package.licence, package.size, package.files) for package in found.packages] == [
        ("pkg:apk/alpine/busybox@1.36.1-r15?arch=x86_64&distro=alpine-3.19.1", "GPL-2.0-only", 2 * BLOCK, 2),
        ("pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.1", "MIT", 3 * BLOCK, 2),
    ]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (MODULES + "bad/package.json", "{"),
        (MODULES + "bad/package.json", "[" * 100_000),
        (MODULES + "bad/package.json", "[]"),
        (MODULES + "bad/package.json", json.dumps({"name": "a", "version": ["1"]})),
        (MODULES + "bad/package.json", json.dumps({"name": "\x1b[2J", "version": "1"})),
        (MODULES + "bad/package.json", json.dumps({"name": "\ud800", "version": "1"})),
        (MODULES + "bad/package.json", json.dumps({"name": "a" * 1000, "version": "1"})),
        (SITE + "bad-1.dist-info/METADATA", "Name: bad\n"),
        ("root/.cargo/.crates.toml", "[v1"),
        ("root/.cargo/.crates.toml", 'v1 = "x"'),
        ("root/.cargo/.crates.toml", '[v1]\n"a" = []'),
        ("root/.cargo/.crates.toml", "x = " + "[" * 100_000),
        ("opt/include/node/node_version.h", "#define NODE_MAJOR_VERSION 1\n"),
        ("opt/lib/rustlib/multirust-channel-manifest.toml", ""),
        ("lib/apk/db/installed", "P:musl\n"),
        ("var/lib/dpkg/status.d/bad", "Package: a b\nVersion: 1\n"),
    ],
)
def test_a_damaged_record_is_told_and_the_others_are_read(path: str, content: str) -> None:
    tree = package_tree()
    tree[path.encode()] = regular_file(content.encode())
    found = find_packages(tree)
    assert found.unread == (f"/{path}",)
    assert {package.purl for package in found.packages} == PURLS


def test_records_that_are_too_large_are_not_read() -> None:
    tree = package_tree()
    source = MemorySource(bytes(BLOCK))
    huge = regular_file(b"")
    huge.size = 1 << 40
    huge.segments = (Segment(0, BLOCK, source, 0),)
    tree[b"var/lib/dpkg/status"] = huge
    found = find_packages(tree)
    assert found.unread == ("/var/lib/dpkg/status",)
    assert not [package for package in found.packages if package.kind == "deb"]


def test_records_together_have_a_limit() -> None:
    tree = package_tree()
    for number in range(6):
        # Files may share their blocks: a small image can hold much.
        record = json.dumps({"name": f"n{number}", "version": "1"}).encode() + b" " * (15 << 20)
        tree[f"{MODULES}n{number}/package.json".encode()] = regular_file(record)
    found = find_packages(tree)
    assert len(found.unread) == 2
    assert len([package for package in found.packages if package.name.startswith("n")]) == 2 + 4
