"""The file system itself."""

from __future__ import annotations

from bouvet.image.guest import Finding, Guest, Requirement

AREA = "File system"

METADATA = "the metadata of every file is readable and its checksum right"
"""The requirement that all others rest upon."""

_REQUIRED = frozenset((
    "64bit", "dir_index", "dir_nlink", "ext_attr", "extent", "extra_isize", "filetype", "flex_bg",
    "large_file", "metadata_csum", "resize_inode", "sparse_super",
))  # fmt: skip
# With either, the kernel of a guest could not grow the file system online, or not mount it.
_FORBIDDEN = frozenset(("sparse_super2", "orphan_file"))
_CLEAN = 1


def requirements() -> list[Requirement]:
    """Return the requirements of the file system, but for `METADATA`."""
    return [
        Requirement(AREA, "ext4 with the expected label", _label),
        Requirement(AREA, "cleanly unmounted", _clean),
        Requirement(AREA, "features of an ext4 that can be checked and grown online", _features),
        Requirement(AREA, "a whole disk, without a partition table", _no_partition_table),
    ]


def _label(guest: Guest) -> Finding:
    return Finding(guest.facts.label == guest.expected.label, guest.facts.label)


def _clean(guest: Guest) -> Finding:
    clean = guest.facts.state == _CLEAN
    return Finding(clean, "clean" if clean else f"state {guest.facts.state}")


def _features(guest: Guest) -> Finding:
    missing, wrong = _REQUIRED - guest.facts.features, _FORBIDDEN & guest.facts.features
    if missing or wrong:
        return Finding(False, f"missing {sorted(missing)}, unwanted {sorted(wrong)}")
    return Finding(True, " ".join(sorted(guest.facts.features)))


def _no_partition_table(guest: Guest) -> Finding:
    with guest.path.open("rb") as image:
        head = image.read(1024)
    if head[512:520] == b"EFI PART":
        return Finding(False, "a GUID partition table")
    if head[510:512] == b"\x55\xaa":
        return Finding(False, "a master boot record")
    return Finding(True, f"{guest.facts.size} bytes of ext4 from the first block on")
