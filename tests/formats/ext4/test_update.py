"""An image that becomes another one in place is, byte for byte, what a whole new one is."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bouvet.formats.ext4 import (
    Ext4Options,
    Place,
    Span,
    places,
    plan_filesystem,
    present_spans,
    write_filesystem,
)
from bouvet.formats.tree import BLOCK, FileTree, Inode, MemorySource, Segment, directory, regular_file
from tests.formats.ext4 import oracles, trees


class NamedSource(MemorySource):
    """A source whose bytes follow from its name, as a layer's blob in the cache."""

    def __init__(self, name: int, blocks: int) -> None:
        super().__init__(random.Random(name).randbytes(blocks * BLOCK))
        self.identity = f"{name}/{blocks}"
        self.copied = 0

    def copy(self, offset: int, length: int, target: int, target_offset: int) -> None:
        self.copied += length
        super().copy(offset, length, target, target_offset)


SOURCES = [NamedSource(name, 64) for name in range(3)]


@st.composite
def contents(draw: st.DrawFn) -> Inode:
    """A file out of a layer, or one that no layer has."""
    if draw(st.integers(0, 4)) == 0:
        return regular_file(draw(st.binary(max_size=3 * BLOCK)))
    source = draw(st.sampled_from(SOURCES))
    first, blocks = draw(st.integers(0, 56)), draw(st.integers(1, 8))
    size = blocks * BLOCK - draw(st.sampled_from([0, 0, 1, 4095]))
    hole = draw(st.integers(0, 2)) * BLOCK
    inode = regular_file(b"")
    inode.size = hole + size
    inode.segments = (Segment(hole, size, source, first * BLOCK),)
    return inode


tree_of_layers = st.dictionaries(st.integers(0, 30), contents(), max_size=12).map(
    lambda files: {b"d%d/f%d" % (number % 3, number): inode for number, inode in files.items()}
)
edits = st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), contents())), max_size=4)


def edited(tree: FileTree, changes: list[tuple[int, Inode | None]]) -> FileTree:
    result = dict(tree)
    for number, inode in changes:
        path = b"d%d/f%d" % (number % 3, number)
        if inode is None:
            result.pop(path, None)
        else:
            result[path] = inode
    return result


def write(tree: FileTree, path: Path, options: Ext4Options) -> list[Place]:
    plan = plan_filesystem(tree, options)
    with path.open("xb") as file:
        write_filesystem(plan, file.fileno())
    return places(plan)


def update(tree: FileTree, path: Path, options: Ext4Options, known: list[Place]) -> list[Span]:
    plan = plan_filesystem(tree, options)
    present = present_spans(plan, known)
    with path.open("r+b") as file:
        write_filesystem(plan, file.fileno(), present=present)
    return present


@pytest.mark.needs_tool("e2fsck")
@settings(max_examples=60, deadline=None)
@given(
    before=tree_of_layers,
    changes=edits,
    free=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    grows=st.booleans(),
)
def test_random_edits(
    before: FileTree, changes: list[tuple[int, Inode | None]], free: tuple[int, int], grows: bool
) -> None:
    old, new = (Ext4Options(free=blocks * BLOCK, journal_size=0) for blocks in free)
    if grows:
        new = dataclasses.replace(new, journal_size=4 << 20, label="other")
    after = edited(before, changes)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        known = write(before, directory / "updated", old)
        update(after, directory / "updated", new, known)
        write(after, directory / "whole", new)
        assert (directory / "updated").read_bytes() == (directory / "whole").read_bytes()
        oracles.check_fsck(directory / "updated")


def test_only_what_differs_is_copied(tmp_path: Path) -> None:
    tree = {b"a%d" % number: layer_file(SOURCES[0], number, 1) for number in range(64)}
    tree |= {b"b": regular_file(b"before")}
    options = Ext4Options(free=1 << 20)
    known = write(tree, tmp_path / "image", options)
    for source in SOURCES:
        source.copied = 0
    tree[b"a63"] = layer_file(SOURCES[1], 0, 1)
    tree[b"b"] = regular_file(b"after it")
    tree[b"new"] = directory()
    present = update(tree, tmp_path / "image", options, known)
    assert sum(span.stop - span.start for span in present) == 63 * BLOCK
    assert [source.copied for source in SOURCES] == [0, BLOCK, 0]


def test_what_is_shifted_is_written_again(tmp_path: Path) -> None:
    options = Ext4Options()
    known = write({b"b": layer_file(SOURCES[0], 0, 8)}, tmp_path / "image", options)
    after = {b"a": layer_file(SOURCES[1], 0, 1), b"b": layer_file(SOURCES[0], 0, 8)}
    assert update(after, tmp_path / "image", options, known) == []
    write(after, tmp_path / "whole", options)
    assert (tmp_path / "image").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_hole_stays_a_hole(tmp_path: Path) -> None:
    """What an update frees takes no space on the host's disk any more."""
    options = Ext4Options(free=8 << 20)
    noise = regular_file(trees.noise(4 << 20))
    known = write({b"a": layer_file(SOURCES[0], 0, 8), b"b": noise}, tmp_path / "image", options)
    update({b"a": layer_file(SOURCES[0], 0, 8)}, tmp_path / "image", options, known)
    assert (tmp_path / "image").stat().st_blocks * 512 < 1 << 20


def layer_file(source: NamedSource, block: int, blocks: int) -> Inode:
    inode = regular_file(b"")
    inode.size = blocks * BLOCK
    inode.segments = (Segment(0, inode.size, source, block * BLOCK),)
    return inode
