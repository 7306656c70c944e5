"""Static verification of damaged and hostile images: failed rows or a typed error, and soon."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet.errors import FormatError, ImageError
from bouvet.formats.ext4 import Ext4Reader
from bouvet.formats.ext4.checksum import directory_checksum, owner_seed, superblock_checksum
from bouvet.formats.ext4.structs import SUPERBLOCK, Superblock
from bouvet.formats.tree import FileTree, Inode, MemorySource, Segment, directory, regular_file, symlink
from bouvet.image.requirements.filesystem import METADATA
from bouvet.image.verify import check_image
from tests.unit.image.devbox_tree import as_file, devbox_tree, manifest, shadow, write_image

START = 1024
DIR_NLINK, SPARSE_SUPER2 = 0x20, 0x200
Change = Callable[[Superblock], Superblock]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "image", devbox_tree())


def failed(image: Path) -> list[str]:
    return [row.requirement for row in check_image(image).failed]


def change_superblock(image: Path, change: Change) -> None:
    """Change the superblock and give it the checksum that belongs to it."""
    with image.open("r+b") as file:
        file.seek(START)
        block = change(Superblock(*SUPERBLOCK.unpack(file.read(SUPERBLOCK.size))))
        record = SUPERBLOCK.pack(*block)
        file.seek(START)
        file.write(SUPERBLOCK.pack(*block._replace(checksum=superblock_checksum(record))))


@pytest.mark.parametrize(
    ("requirement", "change"),
    [
        ("ext4 with the expected label", lambda block: block._replace(volume_name=b"other".ljust(16, b"\0"))),
        ("cleanly unmounted", lambda block: block._replace(state=0)),
        ("cleanly unmounted", lambda block: block._replace(state=3)),
        (
            "features of an ext4 that can be checked and grown online",
            lambda block: block._replace(feature_ro_compat=block.feature_ro_compat & ~DIR_NLINK),
        ),
        (
            "features of an ext4 that can be checked and grown online",
            lambda block: block._replace(feature_compat=block.feature_compat | SPARSE_SUPER2),
        ),
    ],
)
def test_the_superblock_is_checked(image: Path, requirement: str, change: Change) -> None:
    change_superblock(image, change)
    assert failed(image) == [requirement]


@pytest.mark.parametrize(("offset", "content"), [(510, b"\x55\xaa"), (512, b"EFI PART")])
def test_a_partition_table_is_found(image: Path, offset: int, content: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    assert failed(image) == ["a whole disk, without a partition table"]


def test_damaged_metadata_fails(image: Path) -> None:
    """A bit that flips in a directory is found by its checksum."""
    content = bytearray(image.read_bytes())
    place = content.index(b"modules-load.d")
    content[place] ^= 1
    image.write_bytes(content)
    assert failed(image) == [METADATA]


@pytest.mark.parametrize("size", [0, 1, 1024, 2047, 2048, 4096, 100_000])
def test_a_truncated_image_is_refused(image: Path, size: int) -> None:
    os.truncate(image, size)
    with pytest.raises(FormatError):
        check_image(image)


def test_an_image_cut_off_at_its_end_is_refused(image: Path) -> None:
    os.truncate(image, image.stat().st_size - 4096)
    with pytest.raises(FormatError, match="cut short"):
        check_image(image)


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: None], ids=["directory", "fifo", "none"]
)
def test_what_is_no_image_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "image")
    with pytest.raises(ImageError):
        check_image(tmp_path / "image")


def test_random_damage_never_escapes(image: Path) -> None:
    """Whatever is damaged, there is a report or a typed error. Damage of files' contents may pass."""
    whole = image.read_bytes()
    generator = random.Random(20)
    outcomes: set[bool | None] = set()
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 10, 100))):
            content[generator.randrange(len(content))] = generator.randrange(256)
        image.write_bytes(content)
        try:
            outcomes.add(check_image(image).passed)
        except FormatError:
            outcomes.add(None)
    assert False in outcomes


def loops(tree: FileTree) -> None:
    for path in (b"etc/fstab", b"etc/shadow", b"usr/bin/python3", b"bin", b"usr/local/cargo/bin/rustc"):
        tree[path] = symlink(b"/" + path)
    tree[b"etc/hostname"] = symlink(b"hosts2")
    tree[b"etc/hosts2"] = symlink(b"../etc/hostname")
    tree[b"etc/hosts"] = symlink(b"../" * 1000 + b"dev/../etc/hosts")


def long_lines(tree: FileTree) -> None:
    for path in (
        b"etc/fstab", b"etc/hosts", b"etc/resolv.conf", b"etc/network/interfaces", b"etc/profile.d/bouvet.sh",
        b"etc/systemd/system.conf", b"etc/apt/apt.conf.d/90slim", b"etc/dpkg/dpkg.cfg.d/90slim",
        b"usr/include/node/node_version.h", b"usr/lib/os-release", b"etc/modules-load.d/vsock.conf",
    ):  # fmt: skip
        blank = b" " * 300_000
        tree[path] = regular_file(b"export A=" + b"a" * 300_000 + b"\npath-include" + blank + b"\n" * 300_000)


def huge_files(tree: FileTree) -> None:
    """Files of a terabyte that hold nothing: they must not be read."""
    source = MemorySource(bytes(4096))
    for path in (b"etc/fstab", b"etc/shadow", b"var/lib/dpkg/status", b"etc/profile.d/bouvet.sh"):
        segments = (Segment(0, 4096, source, 0),)
        tree[path] = Inode(0o100644, size=1 << 40, segments=segments)


def many_texts(tree: FileTree) -> None:
    """Files that together hold more than is read."""
    for index in range(20):
        tree[b"etc/profile.d/%d.sh" % index] = Inode(0o100644, size=1 << 20)


def many_entries(tree: FileTree) -> None:
    for index in range(3000):
        tree[b"usr/share/man/%d" % index] = regular_file(b"")
    tree[b"etc/shadow"] = regular_file(shadow(hashed="$6$rounds=999999999$salt$" + "a" * 86))
    system = {**manifest()["spec"]["system"], "path": ["/usr/bin"] * 100_000}
    tree[b"usr/share/bouvet/manifest.json"] = regular_file(as_file(manifest(system=system)))


def odd_manifest(tree: FileTree) -> None:
    system = {**manifest()["spec"]["system"], "path": ["/\ud800", "/\0"], "hostname": "\ud800\x1b[2J"}
    content = as_file({**manifest(system=system), "name": "\x1b[2J\ud800"})
    tree[b"usr/share/bouvet/manifest.json"] = regular_file(content)


@pytest.mark.parametrize("tamper", [loops, long_lines, huge_files, many_texts, many_entries, odd_manifest])
def test_hostile_files_fail_soon(tamper: Callable[[FileTree], None], tmp_path: Path) -> None:
    tree = devbox_tree()
    tamper(tree)
    image = write_image(tmp_path / "image", tree)
    started = time.process_time()
    report = check_image(image)
    assert time.process_time() - started < 10
    assert not report.passed
    assert all(row.found.isprintable() and len(row.found) <= 200 for row in report.rows)
    assert all(row.requirement.isprintable() for row in report.rows)


def test_a_directory_that_holds_itself_fails(tmp_path: Path) -> None:
    """The inode of one directory is given to a name in another: the walk would not end."""
    tree = devbox_tree()
    tree[b"srv/loop"] = directory()
    image = write_image(tmp_path / "image", tree)
    with Ext4Reader(image) as reader:
        seed = reader.facts.checksum_seed
    content = bytearray(image.read_bytes())
    place = content.index(struct.pack("<BB", 4, 2) + b"loop") - 6
    block = slice(place - place % 4096, place - place % 4096 + 4096)
    # The entry now names the directory that holds it; the block's checksum is made to fit.
    (number,) = struct.unpack_from("<I", content, block.start)
    struct.pack_into("<I", content, place, number)
    checksum = directory_checksum(owner_seed(seed, number), bytes(content[block]))
    struct.pack_into("<I", content, block.stop - 4, checksum)
    image.write_bytes(content)
    (row,) = check_image(image).failed
    assert row.requirement == METADATA
    assert "two names" in row.found
