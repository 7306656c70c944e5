"""Random trees: what is written is clean for e2fsck, and is what our reader finds."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bouvet.errors import FormatError
from bouvet.formats.ext4 import Ext4Options, plan_filesystem
from bouvet.formats.ext4.inodes import (
    MAX_SECONDS,
    MIN_SECONDS,
    decode_device,
    decode_time,
    encode_device,
    encode_time,
)
from bouvet.formats.ext4.xattrs import acl_from_disk, acl_to_disk
from bouvet.formats.tree import BLOCK, FileTree, Inode, MemorySource, Segment
from tests.formats.ext4 import oracles, trees

SOURCE = MemorySource(trees.noise(64 * BLOCK))
MAX_BLOCKS = 40

# What cannot be in a name becomes something else: to filter it out would reject most.
POSSIBLE = bytes.maketrans(b"/\0", b"_\x01")
names = (
    st.one_of(
        st.binary(min_size=1, max_size=12),
        st.binary(min_size=250, max_size=255),
        st.text(min_size=1, max_size=8).map(lambda text: text.encode(errors="surrogatepass")),
    )
    .map(lambda name: name.translate(POSSIBLE))
    .filter(lambda name: name not in (b".", b"..", b"lost+found"))
)
ids = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 1))
times = st.integers(MIN_SECONDS * trees.SECOND, MAX_SECONDS * trees.SECOND)
permissions = st.integers(0, 0o7777)
xattrs = st.dictionaries(
    st.tuples(
        st.sampled_from([b"user.", b"trusted.", b"security."]),
        st.binary(min_size=1, max_size=30).map(lambda name: name.translate(POSSIBLE)),
    ).map(b"".join),
    st.binary(max_size=300),
    max_size=4,
)
acl_entries = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([0x01, 0x04, 0x10, 0x20]), st.integers(0, 7), st.just(trees.NO_ID)),
        st.tuples(st.sampled_from([0x02, 0x08]), st.integers(0, 7), st.integers(0, 2**32 - 1)),
    ),
    max_size=20,
)


@st.composite
def regular_files(draw: st.DrawFn) -> Inode:
    """A file with runs of content and holes, ending in either, within a block or at its end."""
    segments: list[Segment] = []
    place = 0
    for _ in range(draw(st.integers(0, 7))):
        place += draw(st.integers(0, 3))
        blocks = draw(st.integers(1, 5))
        start = draw(st.integers(0, 64 - blocks))
        segments.append(Segment(place * BLOCK, blocks * BLOCK, SOURCE, start * BLOCK))
        place += blocks
    size = place * BLOCK + draw(st.one_of(st.just(0), st.integers(0, 3 * BLOCK)))
    cut_short = draw(st.booleans())
    if segments and cut_short:
        cut = draw(st.integers(0, BLOCK - 1))
        last = segments[-1]
        segments[-1] = Segment(last.file_offset, last.length - cut, SOURCE, last.source_offset)
        size = last.file_offset + last.length - cut
    return Inode(stat.S_IFREG, size=size, segments=tuple(segments))


inodes = st.one_of(
    regular_files(),
    st.just(None).map(lambda _: Inode(stat.S_IFDIR)),
    st.binary(min_size=1, max_size=100).map(
        lambda target: Inode(stat.S_IFLNK, target=target.translate(POSSIBLE))
    ),
    st.tuples(
        st.integers(0, 4095), st.integers(0, 2**20 - 1), st.sampled_from([stat.S_IFCHR, stat.S_IFBLK])
    ).map(lambda device: Inode(device[2], device=device[:2])),
    st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]).map(Inode),
)


@st.composite
def file_trees(draw: st.DrawFn) -> FileTree:
    tree: FileTree = {}
    directories = [b""]
    files: list[Inode] = []
    for _ in range(draw(st.integers(0, 25))):
        parent = draw(st.sampled_from(directories))
        name = draw(names)
        path = parent + b"/" + name if parent else name
        if path in tree:
            continue
        if files and draw(st.integers(0, 5)) == 0:
            tree[path] = draw(st.sampled_from(files))
            continue
        inode = draw(inodes)
        inode.mode |= draw(permissions)
        inode.uid, inode.gid, inode.mtime = draw(ids), draw(ids), draw(times)
        inode.xattrs = draw(xattrs)
        tree[path] = inode
        if inode.is_directory:
            directories.append(path)
        else:
            files.append(inode)
    return tree


@pytest.mark.needs_tool("e2fsck")
@settings(max_examples=60, deadline=None)
@given(tree=file_trees(), journal=st.booleans(), free=st.integers(0, 200_000))
def test_any_tree_is_clean_and_comes_back(tree: FileTree, journal: bool, free: int) -> None:
    options = Ext4Options(journal_size=4 << 20 if journal else 0, free=free)
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image"
        oracles.make_image(image, tree, options)
        oracles.check_fsck(image)
        oracles.check_reader(image, tree)


@settings(max_examples=200, deadline=None)
@given(tree=st.dictionaries(st.binary(max_size=20), inodes, max_size=6))
def test_any_paths_are_planned_or_refused(tree: FileTree) -> None:
    try:
        plan = plan_filesystem(tree, Ext4Options())
    except FormatError:
        return
    assert {path for path in tree if path} <= {node.path for node in plan.nodes}


@given(nanoseconds=times)
def test_times_come_back(nanoseconds: int) -> None:
    assert decode_time(*encode_time(nanoseconds)) == nanoseconds


@given(major=st.integers(0, 4095), minor=st.integers(0, 2**20 - 1))
def test_device_numbers_come_back(major: int, minor: int) -> None:
    assert decode_device(encode_device(major, minor)) == (major, minor)


@given(entries=acl_entries)
def test_acls_come_back(entries: list[tuple[int, int, int]]) -> None:
    value = trees.acl(*entries)
    assert acl_from_disk(acl_to_disk(value)) == value


@given(value=st.binary(max_size=60))
def test_any_bytes_are_an_acl_or_refused(value: bytes) -> None:
    for convert in (acl_to_disk, acl_from_disk):
        try:
            convert(value)
        except FormatError:
            continue
