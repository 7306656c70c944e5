"""Trees at the boundaries of what ext4 can hold, one for each trap."""

from __future__ import annotations

import random
import stat
import struct
from collections.abc import Callable

from bouvet.formats.tree import FileTree, Inode, MemorySource, Segment, directory, regular_file, symlink

MakeTree = Callable[[], FileTree]

SECOND = 1_000_000_000
BLOCK = 4096


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL in the user-space form of version 2 from (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
ACL = acl(
    (0x01, 7, NO_ID), (0x02, 5, 1000), (0x02, 4, 100000), (0x04, 5, NO_ID), (0x08, 6, 70000),
    (0x10, 7, NO_ID), (0x20, 0, NO_ID),
)  # fmt: skip
CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)
"""cap_net_raw=ep, as in ping."""


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def scattered(source: MemorySource, places: range, size: int) -> Inode:
    """Return a file with one block of content at each of the places, holes between them."""
    segments = tuple(
        Segment(place * BLOCK, BLOCK, source, index * BLOCK) for index, place in enumerate(places)
    )
    return Inode(stat.S_IFREG | 0o644, size=size, segments=segments)


def with_xattrs(inode: Inode, **xattrs: bytes) -> Inode:
    inode.xattrs.update({name.replace("__", ".").encode(): value for name, value in xattrs.items()})
    return inode


def empty() -> FileTree:
    return {}


def file_sizes() -> FileTree:
    sizes = (0, 1, 59, 60, 4095, 4096, 4097, 8191, 8192, 1 << 20)
    return {b"f%d" % size: regular_file(noise(size, size)) for size in sizes}


def large_files() -> FileTree:
    """More than an extent (128 MiB) and than a group; around the backups of the groups 1 and 3."""
    content = noise(1 << 20) * 300
    return {b"a/large": regular_file(content), b"b/after": regular_file(b"after")}


def many_extents() -> FileTree:
    """Five extents need a leaf block; more than 4 * 340 need two levels of them."""
    source = MemorySource(noise(BLOCK * 3000))
    return {
        b"four": scattered(source, range(0, 8, 2), 8 * BLOCK),
        b"five": scattered(source, range(0, 10, 2), 10 * BLOCK),
        b"one leaf": scattered(source, range(0, 680, 2), 680 * BLOCK),
        b"two leaves": scattered(source, range(0, 682, 2), 682 * BLOCK),
        b"four leaves": scattered(source, range(0, 2720, 2), 2720 * BLOCK),
        b"two levels": scattered(source, range(1, 6000, 2), 6000 * BLOCK),
    }


def many_names() -> FileTree:
    """30,000 names, which make a hash tree of two levels with names of this length."""
    return {b"many/%05d" % index + b"x" * (index % 150): regular_file(b"") for index in range(30_000)}


def long_names() -> FileTree:
    """255 bytes, in a linear directory and in hash trees of one and two levels."""
    tree: FileTree = {b"one/" + b"n" * 255: regular_file(b"content")}
    for index in range(40):
        tree[b"some/" + (b"%03d" % index).ljust(255, b"-")] = regular_file(b"")
    for index in range(8000):
        tree[b"many/" + (b"%04d" % index).ljust(255, b"-")] = regular_file(b"")
    return tree


def odd_names() -> FileTree:
    """Every byte but `/` and zero, invalid UTF-8, and enough of it to be hashed as unsigned bytes."""
    tree: FileTree = {bytes([byte]): regular_file(b"") for byte in range(1, 256) if byte not in b"/."}
    tree[b"\xff\xfe/\xc3\x28"] = regular_file(b"invalid UTF-8")
    for index in range(600):
        tree[b"hashed/\x80\xff" + noise(20, index).translate(None, b"/\0")] = regular_file(b"")
    return tree


def deep_paths() -> FileTree:
    return {
        b"/".join([b"d" * 255] * 100) + b"/file": regular_file(b"deep"),
        b"/".join([b"e"] * 100): directory(),
    }


def hard_links() -> FileTree:
    shared, device = regular_file(b"shared"), Inode(stat.S_IFCHR | 0o600, device=(1, 3))
    tree: FileTree = {
        b"a/one": shared,
        b"b/two": shared,
        b"three": shared,
        b"a/null": device,
        b"b/null": device,
    }
    popular = regular_file(b"popular")
    return tree | {b"many/%04d" % index: popular for index in range(3000)}


def modes() -> FileTree:
    tree: FileTree = {
        b"mode%04o" % mode: regular_file(b"x", mode) for mode in (0, 0o7777, 0o4755, 0o2755, 0o1644)
    }
    tree[b"closed"] = directory(0o000)
    tree[b"closed/file"] = regular_file(b"inside", 0o000)
    tree[b"sticky"] = directory(0o1777)
    tree[b"setgid"] = directory(0o2755)
    tree[b""] = directory(0o700, uid=3, gid=4)
    return tree


def owners() -> FileTree:
    ids = (0, 1, 65534, 65535, 65536, 100_000, 2**31, 2**32 - 2)
    return {b"u%d" % number: regular_file(b"", uid=number, gid=2**32 - 2 - number) for number in ids}


def times() -> FileTree:
    """The first and last times that can be stored, those around each epoch, and nanoseconds."""
    seconds = (-(2**31), -1, 0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**34 - 2**31 - 1)
    tree: FileTree = {b"t%d" % second: regular_file(b"", mtime=second * SECOND) for second in seconds}
    tree[b"ns"] = regular_file(b"", mtime=1_700_000_000 * SECOND + 123_456_789)
    tree[b"ns before"] = regular_file(b"", mtime=-5 * SECOND - 1)
    tree[b"dir"] = directory(mtime=-1)
    tree[b"link"] = symlink(b"ns", mtime=2**32 * SECOND + 999_999_999)
    return tree


def sparse_files() -> FileTree:
    source = MemorySource(noise(3 * BLOCK))
    holes = Inode(stat.S_IFREG | 0o644, size=1 << 40)
    tail = Inode(stat.S_IFREG | 0o644, size=100 * BLOCK + 5, segments=(Segment(100 * BLOCK, 5, source, 0),))
    head = Inode(stat.S_IFREG | 0o644, size=100 * BLOCK + 5, segments=(Segment(0, BLOCK, source, BLOCK),))
    far = (2**32 - 1) // 8 - 1
    end = Inode(stat.S_IFREG | 0o644, size=far * BLOCK + 1, segments=(Segment(far * BLOCK, 1, source, 0),))
    return {b"holes": holes, b"tail": tail, b"head": head, b"end": end}


def symlinks() -> FileTree:
    sizes = (1, 59, 60, 61, 255, 4094, 4095)
    tree: FileTree = {b"l%d" % size: symlink(b"t" * size, uid=7, gid=8) for size in sizes}
    tree[b"odd"] = symlink(b"/\xff\xfe//./..")
    # A link in the inode may have attributes in a block all the same.
    tree[b"attributed"] = with_xattrs(symlink(b"short"), trusted__x=b"v" * 300)
    return tree


def devices() -> FileTree:
    numbers = ((0, 0), (1, 3), (255, 255), (256, 0), (0, 256), (259, 70_000), (4095, 2**20 - 1))
    tree: FileTree = {}
    for major, minor in numbers:
        tree[b"c%d-%d" % (major, minor)] = Inode(stat.S_IFCHR | 0o666, device=(major, minor))
        tree[b"b%d-%d" % (major, minor)] = Inode(stat.S_IFBLK | 0o660, gid=6, device=(major, minor))
    tree[b"fifo"] = Inode(stat.S_IFIFO | 0o600)
    tree[b"socket"] = Inode(stat.S_IFSOCK | 0o755)
    return tree


def attributes() -> FileTree:
    """Nothing to a full block, in the inode, in a block, and in both; capabilities and ACLs."""
    full = {f"user.{index:02}".encode(): noise(100, index) for index in range(31)}
    mixed = with_xattrs(regular_file(b"both"), security__capability=CAPABILITY, user__big=noise(3000))
    tree: FileTree = {
        b"ping": with_xattrs(regular_file(b"\x7fELF", 0o755), security__capability=CAPABILITY),
        b"acl": with_xattrs(regular_file(b"", 0o770), system__posix_acl_access=ACL),
        b"dir": with_xattrs(directory(0o770), system__posix_acl_access=ACL, system__posix_acl_default=ACL),
        b"empty value": with_xattrs(regular_file(b""), user__empty=b"", user__other=b"x"),
        b"long name": with_xattrs(regular_file(b""), **{"user__" + "n" * 250: b"v"}),
        b"largest": with_xattrs(regular_file(b""), user__v=noise(4040)),
        b"fits inode": with_xattrs(regular_file(b""), user__v=noise(64)),
        b"just not": with_xattrs(regular_file(b""), user__v=noise(72)),
        b"mixed": mixed,
        b"fifo": with_xattrs(Inode(stat.S_IFIFO | 0o600), trusted__x=b"1", security__y=b"2"),
        b"high bytes": Inode(stat.S_IFREG | 0o644, xattrs={b"user.\xff\xfe" + b"x" * 90: b"\xff" * 99}),
    }
    tree[b"full"] = Inode(stat.S_IFREG | 0o644, xattrs=full)
    return tree


def lost_and_found() -> FileTree:
    return {b"lost+found": directory(0o755, uid=9), b"lost+found/#12": regular_file(b"found")}


def many_directories() -> FileTree:
    """More than 1,000 subdirectories, which have inodes in several groups' worth of a small table."""
    return {b"d%04d/sub/file" % index: regular_file(b"x") for index in range(1200)}


BOUNDARIES = (
    empty, file_sizes, large_files, many_extents, many_names, long_names, odd_names, deep_paths, hard_links,
    modes, owners, times, sparse_files, symlinks, devices, attributes, lost_and_found, many_directories,
)  # fmt: skip
