"""qcow2 overlays, as QEMU's own tools see them."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import pytest

from bouvet.errors import FormatError
from bouvet.formats.qcow2 import CLUSTER, MAX_SIZE, SECTOR, empty_overlay

SIZES = [SECTOR, CLUSTER, (1 << 29) - SECTOR, 1 << 29, (1 << 29) + SECTOR, 5 << 30, MAX_SIZE]


@pytest.mark.parametrize("size", SIZES)
def test_the_header_counts_what_is_there(size: int) -> None:
    overlay = empty_overlay(size)
    assert overlay[:8] == b"QFI\xfb\0\0\0\x03"
    assert struct.unpack_from(">Q", overlay, 24) == (size,)
    entries, table = struct.unpack_from(">IQ", overlay, 36)
    # Each level-1 entry covers a cluster's worth of 8-byte entries of clusters: 512 MiB.
    assert (entries - 1) << 29 < size <= entries << 29
    assert table + entries * 8 <= len(overlay)
    assert len(overlay) % CLUSTER == 0
    counts = struct.unpack_from(f">{CLUSTER // 2}H", overlay, 2 * CLUSTER)
    assert counts[: len(overlay) // CLUSTER] == (1,) * (len(overlay) // CLUSTER)
    assert not any(counts[len(overlay) // CLUSTER :])


@pytest.mark.parametrize("size", [-SECTOR, 0, 1, SECTOR + 1, MAX_SIZE + SECTOR])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(FormatError):
        empty_overlay(size)


@pytest.mark.needs_tool("qemu-img")
@pytest.mark.parametrize("size", SIZES)
def test_qemu_finds_it_sound(tmp_path: Path, size: int) -> None:
    path = tmp_path / "overlay.qcow2"
    path.write_bytes(empty_overlay(size))
    assert _qemu_img("check", "--output=json", str(path))["check-errors"] == 0
    facts = _qemu_img("info", "--output=json", str(path))
    assert (facts["format"], facts["virtual-size"], facts["cluster-size"]) == ("qcow2", size, CLUSTER)


@pytest.mark.needs_tool("qemu-img")
def test_qemu_finds_damage(tmp_path: Path) -> None:
    overlay = bytearray(empty_overlay(1 << 30))
    overlay[2 * CLUSTER : 2 * CLUSTER + 2] = b"\0\0"  # the header's cluster counts as free
    path = tmp_path / "overlay.qcow2"
    path.write_bytes(overlay)
    with pytest.raises(subprocess.CalledProcessError):
        _qemu_img("check", "--output=json", str(path))


def _qemu_img(*arguments: str) -> dict[str, int | str]:
    done = subprocess.run(["qemu-img", *arguments], check=True, timeout=20, stdout=subprocess.PIPE)
    facts: dict[str, int | str] = json.loads(done.stdout)
    return facts
