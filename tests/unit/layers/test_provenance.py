"""What npm and cargo leave behind, read for what they have installed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, regular_file
from bouvet.layers import cargo, npm_packages
from bouvet.plan.provenance import Artifact

MODULES = b"usr/local/lib/node_modules/"
OLD, NEW = ("sha512-" + letter * 86 + "==" for letter in "ab")


def package(name: str, version: str) -> bytes:
    return json.dumps({"name": name, "version": version}).encode()


def index_of(cache: Path, *entries: tuple[str, str, int]) -> None:
    """Write npm's index: URL, digest and time of each entry."""
    for number, (url, digest, time) in enumerate(entries):
        file = cache / f"_cacache/index-v5/0{number}/1{number}/rest"
        file.parent.mkdir(parents=True)
        entry = {"key": f"make-fetch-happen:request-cache:{url}", "integrity": digest, "time": time}
        file.write_text(f"\n0123\t{json.dumps(entry)}\nno entry\n4567\t[]\n")


def test_nodes_packages_have_their_archives_digests(tmp_path: Path) -> None:
    tree: FileTree = {
        MODULES + b"@team/box/package.json": regular_file(package("@team/box", "1.0.0-rc.1")),
        MODULES + b"@team/box/node_modules/below/package.json": regular_file(package("below", "2.0.0")),
        MODULES + b"@team/box/node_modules/bundled/package.json": regular_file(package("bundled", "3.0.0")),
        MODULES + b"@team/box/dist/package.json": regular_file(b"not a package"),
    }
    index_of(
        tmp_path,
        ("http://127.0.0.1/@team%2fbox/-/box-1.0.0-rc.1.tgz", NEW, 1),
        ("http://127.0.0.1/below/-/below-2.0.0.tgz", NEW, 9),
        ("http://127.0.0.2/below/-/below-2.0.0.tgz", OLD, 5),
    )
    assert npm_packages.installed(tree, tmp_path) == (
        Artifact("@team/box", "1.0.0-rc.1", digest=NEW, path="node_modules/@team/box"),
        Artifact("below", "2.0.0", digest=NEW, path="node_modules/@team/box/node_modules/below"),
    )


@pytest.mark.parametrize("record", [b"{", b"[]", package("box", "1.0.0")])
def test_a_package_of_which_nothing_is_known_is_an_error(tmp_path: Path, record: bytes) -> None:
    with pytest.raises(LayerError):
        npm_packages.installed({MODULES + b"box/package.json": regular_file(record)}, tmp_path)


def test_rusts_programs_have_their_archives_digests(tmp_path: Path) -> None:
    record = b'[v1]\n"answer 0.1.0 (registry+http://127.0.0.1/index)" = ["answer"]\n'
    with pytest.raises(LayerError, match=r"no archive of answer 0\.1\.0"):
        cargo.installed(record, tmp_path)
    (tmp_path / "cache/own").mkdir(parents=True)
    (tmp_path / "cache/own/answer-0.1.0.crate").write_bytes(b"crate")
    digest = f"sha256:{hashlib.sha256(b'crate').hexdigest()}"
    assert cargo.installed(record, tmp_path) == (Artifact("answer", "0.1.0", digest=digest),)
    assert cargo.installed(b"", tmp_path) == ()
    for nonsense in (b"[v1", b"v1 = 1", b'[v1]\n"answer" = []\n', b'[v1]\n"../x 0.1.0 (r)" = []\n', b"\xff"):
        with pytest.raises(LayerError, match="makes no sense"):
            cargo.installed(nonsense, tmp_path)
