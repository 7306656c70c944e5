"""Reading images that others made, and images that mean harm."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bouvet.errors import FormatError
from bouvet.formats.ext4 import Ext4Options, Ext4Reader
from bouvet.formats.ext4.blocks import BLOCK_SIZE
from bouvet.formats.ext4.checksum import superblock_checksum
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from tests.formats.ext4 import oracles, trees


def populate(root: Path) -> None:
    """Fill a directory with what mke2fs can copy without root."""
    (root / "sub/deeper").mkdir(parents=True)
    (root / "sub/file").write_bytes(trees.noise(100_000))
    (root / "empty").touch()
    os.link(root / "sub/file", root / "sub/deeper/hard link")
    (root / "short link").symlink_to("t" * 59)
    (root / "long link").symlink_to("t" * 60)
    (root / "names").mkdir()
    for index in range(700):
        (root / "names" / f"name{index:04}").touch()
    with (root / "sparse").open("wb") as file:
        for index in range(1400):
            file.seek(index * 3 * BLOCK_SIZE)
            file.write(b"data")
    os.setxattr(root / "sub/file", "user.small", b"value")
    os.setxattr(root / "empty", "user.large", trees.noise(2000))
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789), follow_symlinks=False)
    (root / "sub/file").chmod(0o4711)


@pytest.mark.needs_tool("mke2fs")
@pytest.mark.parametrize(
    "features",
    [
        "", "^metadata_csum,uninit_bg", "^64bit", "^has_journal", "^dir_index", "^flex_bg", "sparse_super2",
        "^resize_inode", "metadata_csum_seed", "large_dir", "quota", "project",
    ],
)  # fmt: skip
def test_it_reads_what_mke2fs_makes(tmp_path: Path, features: str) -> None:
    root, image = tmp_path / "root", tmp_path / "image"
    root.mkdir()
    populate(root)
    options = ("-O", features) if features else ()
    oracles.run("mke2fs", "-q", "-t", "ext4", "-b", "4096", *options, "-L", "made", "-d", root, image, "200M")
    with Ext4Reader(image) as reader:
        found = reader.tree()
        assert reader.facts.label == "made"
        assert reader.facts.size == 200 << 20
        assert sorted(found) == sorted(
            [b"", b"lost+found", *(os.fsencode(path.relative_to(root)) for path in root.rglob("*"))]
        )
        for path, inode in found.items():
            if path in (b"", b"lost+found"):
                continue
            original = root / os.fsdecode(path)
            info = original.lstat()
            assert (inode.mode, inode.uid, inode.gid) == (info.st_mode, info.st_uid, info.st_gid)
            # mke2fs -d copies times in whole seconds.
            assert inode.mtime // trees.SECOND == info.st_mtime_ns // trees.SECOND
            if inode.is_symlink:
                assert inode.target == os.fsencode(original.readlink())
            if inode.is_regular:
                assert inode.content() == original.read_bytes()
                names = os.listxattr(original)
                assert inode.xattrs == {os.fsencode(name): os.getxattr(original, name) for name in names}
        assert found[b"sub/file"] is found[b"sub/deeper/hard link"]
        assert reader.listdir(b"sub") == [b"deeper", b"file"]


@pytest.mark.needs_tool("mke2fs")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-b", "1024"), "4096"),
        (("-b", "4096", "-O", "inline_data"), "inline_data"),
        (("-b", "4096", "-O", "bigalloc"), "bigalloc"),
        (("-b", "4096", "-O", "meta_bg,^resize_inode"), "meta_bg"),
        (("-b", "4096", "-O", "^extent,^64bit"), "block map"),
        (("-b", "4096", "-O", "journal_dev"), "journal_dev"),
    ],
)
def test_it_refuses_what_it_cannot_read(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    image = tmp_path / "image"
    oracles.run("mke2fs", "-q", "-t", "ext4", *options, image, "64M")
    with pytest.raises(FormatError, match=told), Ext4Reader(image) as reader:
        reader.tree()


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_it_reads_what_the_kernel_writes(tmp_path: Path) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, {}, Ext4Options(free=100 << 20))
    with oracles.mounted(image, read_only=False) as point:
        populate(point)
        os.mknod(point / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(point / "new", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
        os.setxattr(point / "sub", "system.posix_acl_default", trees.ACL)
        os.setxattr(point / "null", "trusted.x", b"y")
        os.posix_fallocate((descriptor := os.open(point / "allocated", os.O_CREAT | os.O_RDWR)), 0, 1 << 20)
        os.close(descriptor)
        expected = oracles.kernel_tree(point)
    oracles.check_fsck(image)
    with Ext4Reader(image) as reader:
        found = oracles.summarize(reader.tree())
    # Allocated and not written counts as a hole, for the kernel as for our reader.
    assert found[b"allocated"][6] == []
    oracles.check_tree(expected, found)


def test_paths(tmp_path: Path) -> None:
    image = tmp_path / "image"
    tree: FileTree = {
        b"usr/bin/bash": regular_file(b"#!", 0o755),
        b"bin": symlink(b"usr/bin"),
        b"usr/bin/sh": symlink(b"/bin/bash"),
        b"up": symlink(b"../../usr/./bin/../bin/sh"),
        b"loop": symlink(b"loop"),
        b"dangling": symlink(b"nowhere"),
        b"a": trees.with_xattrs(directory(), user__x=b"y"),
    }
    oracles.make_image(image, tree)
    with Ext4Reader(image) as reader:
        assert reader.listdir() == sorted([b"usr", b"bin", b"up", b"loop", b"dangling", b"a", b"lost+found"])
        assert reader.read(b"usr/bin/bash") == b"#!"
        assert reader.xattrs(b"a") == {b"user.x": b"y"}
        for path in (b"usr/bin/bash", b"bin/sh", b"/bin//sh", b"up", b"usr/bin/../../bin/bash", b"bin/bash"):
            assert reader.resolve(path) == b"usr/bin/bash"
        assert reader.resolve(b"/") == b""
        for path in (b"nowhere", b"usr/bin/bash/x", b"bin/bash", b"/usr", b"usr/"):
            with pytest.raises(FileNotFoundError):
                reader.stat(path)
        for path in (b"loop", b"dangling", b"usr/nowhere"):
            with pytest.raises(FileNotFoundError):
                reader.resolve(path)
        with pytest.raises(NotADirectoryError):
            reader.listdir(b"bin")
        with pytest.raises(FormatError):
            reader.read(b"bin")
        with pytest.raises(FormatError):
            reader.read(b"usr/bin/bash", limit=1)


def test_content_cannot_be_read_after_closing(tmp_path: Path) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, {b"f": regular_file(b"content")})
    with Ext4Reader(image) as reader:
        inode = reader.stat(b"f")
        assert inode.content() == b"content"
    with pytest.raises(OSError, match="Bad file descriptor"):
        inode.content()


def test_a_tree_that_was_read_can_be_written(tmp_path: Path) -> None:
    """What was read is itself a source: the second image holds the same files."""
    first, second = tmp_path / "first", tmp_path / "second"
    tree = trees.file_sizes() | trees.attributes() | trees.sparse_files()
    oracles.make_image(first, tree)
    with Ext4Reader(first) as reader:
        oracles.make_image(second, reader.tree())
    oracles.check_reader(second, tree)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 2047, 2048, 4096, 100_000])
def test_an_image_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, trees.file_sizes())
    os.truncate(image, size)
    with pytest.raises(FormatError):
        Ext4Reader(image)


@pytest.mark.parametrize("content", [b"", bytes(1 << 20), b"\xff" * (1 << 20), trees.noise(1 << 20)])
def test_what_is_no_file_system_is_refused(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(FormatError):
        Ext4Reader(image)


# --- Hostile images: checksums are no protection against who can compute them --------------------------


EXTREMES = (bytes(4), b"\xff" * 4, b"\x01\0\0\0", b"\0\0\0\x80")


def hostile_base(path: Path) -> bytes:
    """Return an image without checksums, so that a change is met where it is, not at its checksum."""
    tree: FileTree = {b"files/%02d" % index: regular_file(trees.noise(5000, index)) for index in range(20)}
    tree |= trees.long_names() | {b"x": trees.with_xattrs(regular_file(b""), user__x=bytes(500))}
    tree |= {b"scattered": trees.many_extents()[b"two leaves"], b"link": symlink(b"t" * 70)}
    tree = {name: inode for name, inode in tree.items() if not name.startswith(b"many")}
    oracles.make_image(path, tree, Ext4Options(journal_size=0))
    image = bytearray(path.read_bytes())
    (ro_compat,) = struct.unpack_from("<I", image, 1024 + 0x64)
    struct.pack_into("<I", image, 1024 + 0x64, ro_compat & ~0x400)
    return bytes(image)


def metadata_places(image: bytes) -> list[int]:
    """Return where the blocks of metadata are that are not all zeros."""
    data = {place for place in range(0, len(image), BLOCK_SIZE) if not any(image[place : place + BLOCK_SIZE])}
    return [place for place in range(0, len(image), BLOCK_SIZE) if place not in data]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return hostile_base(tmp_path_factory.mktemp("hostile") / "image")


def read_all(path: Path) -> None:
    """Read all there is, a little of each content."""
    with Ext4Reader(path) as reader:
        for name, inode in reader.walk():
            reader.resolve(name) if inode.is_directory else None
            for segment in inode.segments[:10]:
                segment.source.read(segment.source_offset, min(segment.length, BLOCK_SIZE))


def test_the_hostile_base_is_readable(tmp_path: Path, base: bytes) -> None:
    image = tmp_path / "image"
    image.write_bytes(base)
    read_all(image)


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_is_an_error_or_harmless(tmp_path: Path, base: bytes, data: st.DataObject) -> None:
    places = metadata_places(base)
    image = bytearray(base)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.sampled_from(places)) + data.draw(st.integers(0, BLOCK_SIZE - 4))
        value = data.draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(EXTREMES)))
        image[place : place + len(value)] = value
    path = tmp_path / "damaged"
    path.write_bytes(image)
    with contextlib.suppress(FormatError, FileNotFoundError):
        read_all(path)


def edited(base: bytes, tmp_path: Path, *edits: tuple[int, bytes]) -> Path:
    image = bytearray(base)
    for place, value in edits:
        image[place : place + len(value)] = value
    path = tmp_path / "edited"
    path.write_bytes(image)
    return path


def inode_place(base: bytes, number: int) -> int:
    (table,) = struct.unpack_from("<I", base, BLOCK_SIZE + 8)
    return int(table) * BLOCK_SIZE + (number - 1) * 256


def find_entry(base: bytes, name: bytes) -> tuple[int, int]:
    """Return the place of a directory entry and its inode number."""
    for place in metadata_places(base):
        offset = base.find(bytes([len(name)]), place, place + BLOCK_SIZE)
        while offset >= 0:
            if base[offset + 2 : offset + 2 + len(name)] == name and base[offset + 1] in (1, 2, 7):
                return offset - 6, int(struct.unpack_from("<I", base, offset - 6)[0])
            offset = base.find(bytes([len(name)]), offset + 1, place + BLOCK_SIZE)
    raise AssertionError(name)


def test_a_directory_loop_is_refused(tmp_path: Path, base: bytes) -> None:
    place, _ = find_entry(base, b"05")
    for target in (2, find_entry(base, b"files")[1]):
        with pytest.raises(FormatError, match="two names"):
            read_all(edited(base, tmp_path, (place, struct.pack("<I", target))))


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, base: bytes) -> None:
    place, _ = find_entry(base, b"05")
    for name in (b"/x", b"\0x", b"a/"):
        with pytest.raises(FormatError, match="impossible name"):
            read_all(edited(base, tmp_path, (place + 8, name)))


def test_extent_nodes_that_two_files_share_are_refused(tmp_path: Path, base: bytes) -> None:
    _, scattered = find_entry(base, b"scattered")
    _, other = find_entry(base, b"05")
    inode = base[inode_place(base, scattered) : inode_place(base, scattered) + 256]
    with pytest.raises(FormatError, match="cannot belong"):
        read_all(edited(base, tmp_path, (inode_place(base, other), inode)))


def test_an_extent_tree_that_contains_itself_is_refused(tmp_path: Path, base: bytes) -> None:
    _, scattered = find_entry(base, b"scattered")
    root = inode_place(base, scattered) + 0x28
    (leaf,) = struct.unpack_from("<I", base, root + 12 + 4)
    looped = struct.pack("<HHHHIIIHH", 0xF30A, 1, 340, 0, 0, 0, leaf, 0, 0)
    for depth in (1, 2, 5, 6, 65535):
        root_header = struct.pack("<HHHH", 0xF30A, 1, 4, depth)
        node_header = looped[:6] + struct.pack("<H", max(depth - 1, 0)) + looped[8:]
        path = edited(base, tmp_path, (root, root_header), (leaf * BLOCK_SIZE, node_header))
        with pytest.raises(FormatError, match="damaged"):
            read_all(path)


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path, base: bytes) -> None:
    _, number = find_entry(base, b"05")
    path = edited(base, tmp_path, (inode_place(base, number) + 0x6C, struct.pack("<I", 0x1000)))
    with Ext4Reader(path) as reader:
        assert reader.stat(b"files/05").size > 1 << 44
        with pytest.raises(FormatError, match="at most"):
            reader.read(b"files/05")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0x00, 0), (0x00, 0xFFFFFFFF), (0x04, 0), (0x04, 0xFFFFFFFF), (0x14, 1), (0x18, 0), (0x18, 60),
        (0x20, 0), (0x20, 0xFFFFFFFF), (0x28, 0), (0x28, 8), (0x28, 0xFFFFFFFF), (0x38, 0), (0x4C, 0),
        (0x58, 0), (0x58, 64), (0x58, 257), (0x60, 0), (0x60, 0xFFFFFFFF), (0xFE, 0), (0xFE, 65), (0x150, 1),
    ],
)  # fmt: skip
def test_a_superblock_that_makes_no_sense_is_refused(
    tmp_path: Path, base: bytes, field: int, value: int
) -> None:
    size = 2 if field in (0x38, 0x58, 0xFE) else 4
    path = edited(base, tmp_path, (1024 + field, value.to_bytes(4, "little")[:size]))
    with pytest.raises(FormatError):
        Ext4Reader(path)


def test_a_journal_to_be_replayed_is_told_with_what_to_do(tmp_path: Path) -> None:
    image = tmp_path / "image"
    oracles.make_image(image, {})
    content = bytearray(image.read_bytes())
    content[1024 + 0x60] |= 0x4
    struct.pack_into("<I", content, 2044, superblock_checksum(bytes(content[1024:2048])))
    image.write_bytes(content)
    with pytest.raises(FormatError, match="cleanly") as caught:
        Ext4Reader(image)
    assert caught.value.hint is not None


def test_every_single_flipped_bit_in_checksummed_metadata_is_noticed(tmp_path: Path) -> None:
    """Where there are checksums, any bit of an inode table, directory or attribute in use counts."""
    image = tmp_path / "image"
    tree = trees.attributes() | {b"d/%03d" % index: regular_file(b"") for index in range(300)}
    plan = oracles.make_image(image, tree, Ext4Options(journal_size=0))
    content = image.read_bytes()
    table = plan.geometry.inode_tables[0].start * BLOCK_SIZE
    used = [table + 256 * (node.number - 1) for node in plan.nodes]
    for place in random.Random(5).sample(used, 40):
        bit = random.Random(place).randrange(256 * 8)
        flipped = bytearray(content)
        flipped[place + bit // 8] ^= 1 << bit % 8
        image.write_bytes(flipped)
        with pytest.raises(FormatError), Ext4Reader(image) as reader:
            reader.tree()
