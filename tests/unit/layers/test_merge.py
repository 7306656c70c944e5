"""Layers laid over each other."""

from __future__ import annotations

import stat

import pytest

from bouvet.errors import FormatError
from bouvet.formats.tree import FileTree, Inode, directory, regular_file, symlink
from bouvet.layers.merge import OPAQUE, merge


def file(text: str) -> Inode:
    return regular_file(text.encode())


def whiteout() -> Inode:
    return Inode(stat.S_IFCHR, device=(0, 0))


def names(tree: FileTree) -> set[bytes]:
    return set(tree)


def test_later_layers_win() -> None:
    lower, upper = file("lower"), file("upper")
    merged = merge([{b"a": lower, b"b": lower}, {b"a": upper}])
    assert merged[b"a"] is upper
    assert merged[b"b"] is lower


def test_nothing_makes_an_empty_tree() -> None:
    assert merge([]) == {}


def test_the_layers_are_left_as_they_are() -> None:
    lower: FileTree = {b"a": file("x"), b"d": directory(), b"d/x": file("x")}
    before = dict(lower)
    merge([lower, {b"a": whiteout(), b"d": whiteout()}])
    assert lower == before


def test_a_directory_over_a_directory_keeps_what_is_in_it_and_takes_its_metadata() -> None:
    upper = directory(0o700)
    merged = merge([{b"d": directory(), b"d/x": file("x")}, {b"d": upper, b"d/y": file("y")}])
    assert names(merged) == {b"d", b"d/x", b"d/y"}
    assert merged[b"d"] is upper


def test_a_file_over_a_directory_removes_what_was_in_it() -> None:
    merged = merge([{b"d": directory(), b"d/x": file("x"), b"dx": file("")}, {b"d": file("now a file")}])
    assert names(merged) == {b"d", b"dx"}


def test_a_directory_over_a_link_replaces_the_link() -> None:
    merged = merge([{b"d": symlink(b"e")}, {b"d": directory(), b"d/x": file("x")}])
    assert merged[b"d"].is_directory


def test_a_whiteout_removes_a_name_and_all_below_it() -> None:
    merged = merge([{b"d": directory(), b"d/e": directory(), b"d/e/f": file("")}, {b"d/e": whiteout()}])
    assert names(merged) == {b"d"}


def test_a_whiteout_of_nothing_leaves_nothing() -> None:
    assert merge([{b"a": file("")}, {b"b": whiteout()}]).keys() == {b"a"}
    assert merge([{b"a": whiteout()}]) == {}


def test_an_opaque_directory_hides_the_lower_one_whatever_the_order() -> None:
    opaque = directory()
    opaque.xattrs[OPAQUE] = b"y"
    upper: FileTree = {b"d/new": file("new"), b"d": opaque}
    merged = merge([{b"d": directory(), b"d/old": file("old"), b"d/sub": directory()}, upper])
    assert names(merged) == {b"d", b"d/new"}
    assert OPAQUE not in merged[b"d"].xattrs, "the marker is the layer's, not the tree's"


def test_an_opaque_root_hides_everything() -> None:
    root = directory()
    root.xattrs[OPAQUE] = b"y"
    assert merge([{b"a": file("")}, {b"": root, b"b": file("")}]).keys() == {b"", b"b"}


def test_directories_that_only_their_entries_imply_are_removed_too() -> None:
    assert merge([{b"a/b/c": file(""), b"ab": file("")}, {b"a": whiteout()}]).keys() == {b"ab"}
    assert merge([{b"a/b/c": file("")}, {b"a/b": file("now a file")}]).keys() == {b"a/b"}


def test_hard_links_stay_links_and_lose_only_the_replaced_name() -> None:
    linked = file("shared")
    merged = merge([{b"a": linked, b"b": linked, b"c": linked}, {b"b": file("own")}])
    assert merged[b"a"] is merged[b"c"] is linked
    assert merged[b"b"] is not linked


@pytest.mark.parametrize("upper", [{b"lib/x": file("")}, {b"lib/deep/x": file("")}, {b"f/x": file("")}])
def test_a_path_through_a_link_or_a_file_is_refused(upper: FileTree) -> None:
    lower = {b"lib": symlink(b"usr/lib"), b"usr/lib": directory(), b"f": file("")}
    with pytest.raises(FormatError):
        merge([lower, upper])
