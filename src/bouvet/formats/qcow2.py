"""Empty qcow2 overlays: what a virtual machine writes instead of changing its image.

Source: QEMU's docs/interop/qcow2.txt (version 3). An overlay is a few clusters in which nothing is
allocated yet: reads go to the backing image, and read as zeros beyond its end; writes go to clusters
that QEMU appends. Which image is behind it is said to QEMU when it opens the overlay, not in the file.

    cluster 0   header
    cluster 1   refcount table (one entry)
    cluster 2   refcount block: the used clusters count 1
    cluster 3…  level-1 table, all zeros: nothing is allocated
"""

from __future__ import annotations

import struct

from bouvet.errors import FormatError

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
"""Bytes of a cluster: QEMU's default."""

SECTOR = 512
MAX_SIZE = 1 << 44
"""16 TiB: the level-1 table then has 32,768 entries, far fewer than the one refcount block can count."""

_MAGIC = b"QFI\xfb"
_VERSION = 3
_REFCOUNT_ORDER = 4  # entries of 1 << 4 bits
_LAZY_REFCOUNTS = 1  # compatible feature: QEMU writes reference counts only when it closes the file

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
"""magic, version, backing file offset and length, cluster bits, size, encryption method, level-1 entries
and offset, refcount table offset and clusters, snapshots and their offset, incompatible, compatible and
autoclear features, refcount order, header length."""
assert _HEADER.size == 104

_L2_REACH = CLUSTER * (CLUSTER // 8)
"""Bytes of the disk that one level-1 entry covers: a cluster full of 8-byte entries, each of a cluster."""


def empty_overlay(size: int) -> bytes:
    """Return an overlay of a disk of `size` bytes in which nothing has been written yet.

    Args:
        size: The disk's size in bytes, a multiple of 512, up to 16 TiB.

    Raises:
        FormatError: The size is not possible.
    """
    if not 0 < size <= MAX_SIZE or size % SECTOR:
        raise FormatError(f"a disk of {size} bytes is not possible: a multiple of {SECTOR}, up to 16 TiB")
    level1_entries = -(-size // _L2_REACH)
    level1_clusters = -(-level1_entries * 8 // CLUSTER)
    used = 3 + level1_clusters
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        *(0, 0),
        CLUSTER_BITS,
        size,
        0,
        level1_entries,
        3 * CLUSTER,
        1 * CLUSTER,
        1,
        *(0, 0),
        *(0, _LAZY_REFCOUNTS, 0),
        _REFCOUNT_ORDER,
        _HEADER.size,
    )
    out = bytearray(used * CLUSTER)
    out[: _HEADER.size] = header
    struct.pack_into(">Q", out, 1 * CLUSTER, 2 * CLUSTER)
    struct.pack_into(f">{used}H", out, 2 * CLUSTER, *[1] * used)
    return bytes(out)
