"""What is in an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.errors import FormatError, ImageError
from bouvet.formats.tree import BLOCK, regular_file
from bouvet.image.contents import MANIFEST, Sized, read_contents
from tests.unit.image.package_tree import TIME, package_tree, write_image


def test_contents(tmp_path: Path) -> None:
    tree = package_tree()
    image = write_image(tmp_path / "tiny.ext4", tree)
    contents = read_contents(image, rows=2, layer_sizes={"debian": 5})
    assert contents.size == image.stat().st_size
    assert contents.files == len(tree) + 1  # lost+found
    assert contents.created == TIME
    assert (contents.name, contents.architecture) == ("bouvet-tiny", "x86_64")
    assert contents.layers == (Sized("debian", 5), Sized("node", None))
    assert contents.largest[0] == Sized("/usr/lib/big.so", 3 * BLOCK)
    assert len(contents.largest) == len(contents.directories) == 2
    assert contents.directories[0].name == "/usr"
    regular = [inode for inode in tree.values() if inode.is_regular]
    assert contents.stored == sum(-(-inode.size // BLOCK) * BLOCK for inode in regular)
    assert contents.stored == contents.unpackaged + sum(package.size for package in contents.packages)


@pytest.mark.parametrize("content", [b"", b"[]", b"{" * 10_000, b'{"name": 7, "layers": {}}'])
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    tree = package_tree()
    tree[MANIFEST] = regular_file(content)
    contents = read_contents(write_image(tmp_path / "tiny.ext4", tree), rows=2)
    assert (contents.name, contents.layers) == ("", ())


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image"):
        read_contents(tmp_path / "missing.ext4", rows=2)
    (tmp_path / "zeros.ext4").write_bytes(bytes(1 << 20))
    with pytest.raises(FormatError):
        read_contents(tmp_path / "zeros.ext4", rows=2)
