"""The directories' hash, and hash trees where hashes collide."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from bouvet.formats.ext4 import Ext4Options
from bouvet.formats.ext4.directory import LEAF_ROOM, entry_size, hash_name, plan_leaves
from bouvet.formats.tree import FileTree, regular_file
from tests.formats.ext4 import oracles

SEED = Ext4Options().hash_seed
COLLIDING = (b"name0016838", b"name0123027")
"""Two names of one hash under the default seed, found by trying."""


@pytest.mark.needs_tool("debugfs")
@pytest.mark.parametrize("seed", [SEED, uuid.UUID(int=0), uuid.UUID("ffeeddcc-bbaa-9988-7766-554433221100")])
def test_the_hash_is_e2fsprogs_hash(tmp_path: Path, seed: uuid.UUID) -> None:
    """debugfs hashes names as signed bytes, which is the same for ASCII."""
    image = tmp_path / "image"
    oracles.make_image(image, {})
    alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 5
    lengths = [*range(1, 40), 63, 64, 65, 127, 128, 254, 255]
    script = tmp_path / "script"
    script.write_text(
        "".join(f"dx_hash -h half_md4 -s {seed} {alphabet[:length].decode()}\n" for length in lengths)
    )
    output = oracles.run("debugfs", "-f", script, image)
    told = [int(value, 16) for value in re.findall(rb"^Hash of \S+ is (0x[0-9a-f]+)", output, re.MULTILINE)]
    assert told == [hash_name(alphabet[:length], seed.bytes) for length in lengths]


def collision_across_leaves() -> FileTree:
    """A directory whose first leaf ends between two names of one hash."""
    low, high = COLLIDING
    boundary = hash_name(low, SEED.bytes)
    assert hash_name(high, SEED.bytes) == boundary
    in_leaf = LEAF_ROOM // entry_size(low)
    others = [b"name%07d" % index for index in range(1000)]
    before = [name for name in others if hash_name(name, SEED.bytes) < boundary][: in_leaf - 1]
    after = [name for name in others if hash_name(name, SEED.bytes) > boundary]
    return {b"d/" + name: regular_file(b"") for name in (*before, *COLLIDING, *after)}


def test_a_leaf_that_continues_a_hash_is_marked() -> None:
    names = [path.partition(b"/")[2] for path in collision_across_leaves()]
    leaves = plan_leaves(sorted(names), SEED.bytes)
    assert leaves[0].names[-1] == COLLIDING[0]
    assert leaves[1].names[0] == COLLIDING[1]
    assert leaves[1].hash == hash_name(COLLIDING[1], SEED.bytes) | 1
    assert [leaf.hash & 1 for leaf in leaves[2:]] == [0] * (len(leaves) - 2)


@pytest.mark.needs_tool("e2fsck")
def test_e2fsck_accepts_a_collision_across_leaves(tmp_path: Path) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, collision_across_leaves())
    oracles.check_fsck(image)
    oracles.check_reader(image, collision_across_leaves())


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_the_kernel_looks_names_up_over_a_collision_across_leaves(tmp_path: Path) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, collision_across_leaves())
    oracles.check_kernel(image, collision_across_leaves())


@pytest.mark.needs_tool("e2fsck")
@pytest.mark.parametrize("rest", range(0, 16, 4))
def test_directories_around_one_block(tmp_path: Path, rest: int) -> None:
    """With and without the few bytes that make the difference between a linear block and a tree."""
    image = tmp_path / "image"
    # . and .. take 24 of the 4084 bytes, these names 15 * 264, which leaves 100: 92 for one more name.
    tree = {b"d/" + (b"%02d" % index).ljust(255, b"n"): regular_file(b"") for index in range(15)}
    tree[b"d/" + b"z" * (84 + rest)] = regular_file(b"")
    plan = oracles.make_image(image, tree)
    (node,) = [node for node in plan.nodes if node.path == b"d"]
    assert bool(node.leaves) is (rest > 8)
    oracles.check_fsck(image)
    oracles.check_reader(image, tree)
