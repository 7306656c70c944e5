"""Layers of container images applied: as engines apply them, and hostile ones contained or refused."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, directory, regular_file
from bouvet.formats.tree import symlink as link_to
from bouvet.layers import oci, oci_stream
from bouvet.layers.merge import merge
from bouvet.layers.oci_stream import open_layer
from bouvet.layers.writer import LayerWriter
from tests.unit.layers.container_images import digest, entry, folder, hard_link, symlink, tar


def applied(layer: LayerWriter, content: bytes, lower: FileTree | None = None) -> FileTree:
    """Apply a layer to a tree, and return what they make together."""
    oci.apply_layer(io.BytesIO(content), lower or {}, layer)  # type: ignore[arg-type]
    return merge([lower or {}, layer.tree])


def debian() -> FileTree:
    """A small merged-/usr tree."""
    return {
        b"usr": directory(),
        b"usr/lib": directory(0o711, uid=3),
        b"usr/lib/old": regular_file(b"old"),
        b"lib": link_to(b"usr/lib"),
        b"etc": directory(),
        b"etc/passwd": regular_file(b"root:x:0:0::/root:/bin/sh\n"),
        b"out": link_to(b"/../../../etc"),
    }


# --- What engines do ----------------------------------------------------------------------------------


def test_entries_keep_what_they_are(layer: LayerWriter) -> None:
    records = {"SCHILY.xattr.user.note": "x", "mtime": "1.000000001"}
    content = tar(
        folder("./", mode=0o700),
        entry("./a", b"text", uid=7, gid=8, mode=0o4755, pax_headers=records),
        hard_link("b", "./a"),
        symlink("c", "/anywhere/at/all"),
        entry("d", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("e", kind=tarfile.FIFOTYPE),
    )
    tree = applied(layer, content)
    assert tree[b"a"] is tree[b"b"]
    assert (tree[b"a"].uid, tree[b"a"].gid, tree[b"a"].mtime) == (7, 8, 1_000_000_001)
    assert tree[b"a"].mode == stat.S_IFREG | 0o4755
    assert tree[b"a"].xattrs == {b"user.note": b"x"}
    assert tree[b"a"].content() == b"text"
    assert tree[b"c"].target == b"/anywhere/at/all"
    assert tree[b"d"].device == (1, 3)
    assert stat.S_ISFIFO(tree[b"e"].mode)
    assert tree[b""].mode == stat.S_IFDIR | 0o700


def test_paths_lead_through_the_images_links(layer: LayerWriter) -> None:
    tree = applied(layer, tar(entry("lib/new", b"new"), entry("out/added", b"in etc")), debian())
    assert tree[b"usr/lib/new"].content() == b"new"
    assert tree[b"etc/added"].content() == b"in etc"
    assert tree[b"lib"].is_symlink
    assert not any(path.startswith((b"lib/", b"out/")) for path in tree)


def test_whiteouts_remove_what_is_below_only(layer: LayerWriter) -> None:
    lower = debian() | {b"etc/d": directory(), b"etc/d/one": regular_file(b"1")}
    content = tar(
        folder("etc/d"), entry("etc/d/two", b"2"), entry("etc/.wh.d"),
        entry("lib/.wh.old"), entry("etc/.wh.passwd"), entry("etc/.wh.absent"), entry(".wh..wh.plnk"),
    )  # fmt: skip
    tree = applied(layer, content, lower)
    assert b"usr/lib/old" not in tree
    assert b"etc/passwd" not in tree
    assert [path for path in tree if path.startswith(b"etc/d")] == [b"etc/d", b"etc/d/two"]


@pytest.mark.parametrize("early", [True, False])
def test_opaque_directories_keep_their_own_entries(layer: LayerWriter, early: bool) -> None:
    marker, own = entry("usr/lib/.wh..wh..opq"), entry("usr/lib/own", b"own")
    tree = applied(layer, tar(marker, own) if early else tar(own, marker), debian())
    assert [path for path in tree if path.startswith(b"usr/lib")] == [b"usr/lib", b"usr/lib/own"]
    assert (tree[b"usr/lib"].uid, stat.S_IMODE(tree[b"usr/lib"].mode)) == (3, 0o711)


def test_a_removed_link_leads_nowhere(layer: LayerWriter) -> None:
    tree = applied(layer, tar(entry(".wh.lib"), entry("lib/new", b"new")), debian())
    assert tree[b"lib/new"].content() == b"new"
    assert b"usr/lib/new" not in tree


def test_a_link_to_a_file_below_is_a_link(layer: LayerWriter) -> None:
    tree = applied(layer, tar(hard_link("etc/other", "lib/old")), debian())
    assert tree[b"etc/other"] is tree[b"usr/lib/old"]
    assert tree[b"etc/other"].content() == b"old"


def test_the_last_of_equal_names_wins(layer: LayerWriter) -> None:
    content = tar(
        entry("a", b"1"), entry("a", b"2"), folder("d"), entry("d/x", b"x"), entry("d", b"file"),
        symlink("s", "d"), folder("s"), entry("s/y", b"y"),
    )  # fmt: skip
    tree = applied(layer, content)
    assert tree[b"a"].content() == b"2"
    assert tree[b"d"].content() == b"file"
    assert b"d/x" not in tree
    assert tree[b"s"].is_directory
    assert tree[b"s/y"].content() == b"y"


# --- Blobs --------------------------------------------------------------------------------------------

CONTENT = tar(entry("file", b"content" * 1000))


def read(path: Path, stored: bytes, *, digest_of: bytes | None = None, diff_of: bytes = CONTENT) -> bytes:
    path.write_bytes(b"before" + stored + b"after")
    blob = digest(stored if digest_of is None else digest_of)
    with open_layer(path, 6, len(stored), blob, digest(diff_of)) as stream:
        return b"".join(iter(lambda: stream.read(1 << 16), b""))


@pytest.mark.parametrize(
    "stored",
    [
        CONTENT,
        gzip.compress(CONTENT),
        gzip.compress(CONTENT[:3000]) + gzip.compress(CONTENT[3000:]),
        zstandard.compress(CONTENT),
        zstandard.compress(CONTENT[:3000]) + zstandard.compress(CONTENT[3000:]),
    ],
    ids=["plain", "gzip", "gzip members", "zstd", "zstd frames"],
)
def test_blobs_are_expanded(tmp_path: Path, stored: bytes) -> None:
    assert read(tmp_path / "blob", stored) == CONTENT


@pytest.mark.parametrize(
    ("stored", "digest_of", "diff_of"),
    [
        (CONTENT, b"other", CONTENT),
        (CONTENT, None, b"other"),
        (gzip.compress(CONTENT)[:-20], None, CONTENT),
        (gzip.compress(CONTENT)[:-8] + bytes(8), None, CONTENT),
        (gzip.compress(CONTENT) + b"garbage", None, CONTENT),
        (zstandard.compress(CONTENT)[:-20], None, CONTENT),
        (b"\x28\xb5\x2f\xfd" + b"garbage" * 9, None, CONTENT),
    ],
    ids=["blob", "content", "short gzip", "gzip checksum", "after gzip", "short zstd", "bad zstd"],
)
def test_blobs_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, stored: bytes, digest_of: bytes | None, diff_of: bytes
) -> None:
    with pytest.raises(FormatError):
        read(tmp_path / "blob", stored, digest_of=digest_of, diff_of=diff_of)


def test_a_blob_that_ends_early_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    with (
        pytest.raises(FormatError, match="shorter"),
        open_layer(tmp_path / "blob", 0, len(CONTENT) + 1, None, digest(CONTENT)),
    ):
        pass


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_bombs_are_stopped_by_their_ratio(
    tmp_path: Path, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_stream, "FREE_EXPANSION", 1 << 20)
    bomb = bytes(64 << 20)
    with pytest.raises(FormatError, match="expands to more"):
        read(tmp_path / "blob", compress(bomb), diff_of=bomb)


def test_bombs_are_stopped_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_stream, "MAXIMUM_SIZE", 1 << 20)
    content = os.urandom(2 << 20)
    with pytest.raises(FormatError, match="expands to more"):
        read(tmp_path / "blob", content, diff_of=content)


# --- Hostile layers -----------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes) -> bytes:
    """Return a bare header that promises a size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def negative_size() -> bytes:
    block = bytearray(header("file", 0, tarfile.REGTYPE))
    block[124:136] = b"\xff" + struct.pack(">Q", (1 << 64) - 512).rjust(11, b"\xff")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


CONTAINED = {
    "absolute name": tar(entry("/escaped", b"x")),
    "link out and through it": tar(symlink("door", "../../../.."), entry("door/escaped", b"x")),
    "absolute link and through it": tar(symlink("door", "/tmp"), entry("door/escaped", b"x")),
    "chain of links": tar(symlink("a", "b/.."), symlink("b", "../../x/.."), entry("a/escaped", b"x")),
    "overlay attribute": tar(folder("etc", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})),
    "redirect attribute": tar(folder("etc", pax_headers={"SCHILY.xattr.user.overlay.redirect": "/"})),
    "symlink over a directory": tar(symlink("usr", "/etc"), entry("usr/escaped", b"x")),
}

REFUSED = {
    "traversal": tar(entry("../escaped", b"x")),
    "traversal inside": tar(entry("etc/../../escaped", b"x")),
    "NUL in a name": tar(entry("a", b"", pax_headers={"path": "a\0b"})),
    "hard link out": tar(hard_link("a", "../../etc/passwd")),
    "hard link to nothing": tar(hard_link("a", "etc/shadow")),
    "hard link to a directory": tar(hard_link("a", "etc")),
    "hard link before its target": tar(hard_link("a", "b"), entry("b", b"x")),
    "loop of links": tar(symlink("a", "b"), symlink("b", "a"), entry("a/x", b"x")),
    "through a file": tar(entry("a", b"x"), entry("a/b", b"x")),
    "through a file below": tar(entry("etc/passwd/b", b"x")),
    "device of a removal": tar(entry("etc/passwd", kind=tarfile.CHRTYPE)),
    "removal of ..": tar(entry("etc/.wh...")),
    "removal of nothing": tar(entry("etc/.wh.")),
    "giant pax header": header("x", 1 << 40, tarfile.XHDTYPE),
    "giant global header": header("x", 8 << 30, tarfile.XGLTYPE),
    "giant long name": header("x", 1 << 40, tarfile.GNUTYPE_LONGNAME),
    "giant sparse file": tar(
        entry(
            "a",
            pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 60), "GNU.sparse.name": "a"},
        )
    ),
    "nested headers": entry("x", b"9 path=a\n", kind=tarfile.XHDTYPE) * 5000,
    "impossible owner": tar(entry("a", pax_headers={"uid": str(1 << 40)})),
    "impossible time": tar(entry("a", pax_headers={"mtime": "nan"})),
    "endless time": tar(entry("a", pax_headers={"mtime": "inf"})),
    "negative size": negative_size() + bytes(1024),
    "long path": tar(entry("a/" * 2500 + "b", b"x")),
    "long name": tar(entry("a" * 300 + "/b", b"x")),
    "unknown type": tar(entry("a", kind=b"Z")),
    "root that is a file": tar(entry("./", b"x")),
    "short content": entry("a", b"x" * 4096)[:1024],
    "short header": entry("a", b"")[:100],
}


@pytest.mark.parametrize("name", CONTAINED)
def test_what_leads_out_stays_inside(layer: LayerWriter, name: str) -> None:
    tree = applied(layer, CONTAINED[name], debian())
    assert all(b".." not in path.split(b"/") and not path.startswith(b"/") for path in tree)
    assert b"etc/passwd" in tree
    assert not any(b"overlay" in key for inode in tree.values() for key in inode.xattrs)
    escaped = [path for path in tree if path.endswith(b"escaped")]
    assert "attribute" in name or len(escaped) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_contained_is_refused(layer: LayerWriter, name: str) -> None:
    with pytest.raises(FormatError):
        applied(layer, REFUSED[name], debian())


def test_too_many_entries_are_refused(layer: LayerWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "MAXIMUM_ENTRIES", 3)
    with pytest.raises(FormatError, match="entries"):
        applied(layer, tar(*(entry(f"f{number}") for number in range(4))))


def test_noise_is_refused_or_contained(layer: LayerWriter) -> None:
    """Damage in each header's field ends in FormatError or in a tree of plain paths."""
    good = tar(
        folder("d"), entry("d/f", b"x" * 600, pax_headers={"SCHILY.xattr.user.a": "b"}), symlink("s", "d")
    )
    for position in range(0, len(good) - 1024, 7):
        damaged = bytearray(good)
        damaged[position] ^= 0x41
        checksum_at = position // 512 * 512
        damaged[checksum_at + 148 : checksum_at + 156] = b"        "
        total = sum(damaged[checksum_at : checksum_at + 512])
        damaged[checksum_at + 148 : checksum_at + 156] = b"%06o\0 " % total
        layer.tree.clear()
        try:
            tree = applied(layer, bytes(damaged))
        except FormatError:
            continue
        for path in tree:
            assert not path.startswith(b"/")
            assert b".." not in path.split(b"/")


def test_a_layers_inode_is_its_own(layer: LayerWriter) -> None:
    """Applying a layer leaves the tree below as it was."""
    lower = debian()
    before = {path: (id(inode), dict(inode.xattrs)) for path, inode in lower.items()}
    applied(layer, tar(entry("etc/.wh..wh..opq"), entry(".wh.usr")), lower)
    assert before == {path: (id(inode), dict(inode.xattrs)) for path, inode in lower.items()}
