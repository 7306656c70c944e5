"""A layer's blob: alignment, holes, checksums."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.errors import LayerCorrupt
from bouvet.formats.tree import BLOCK, Inode, Segment, regular_file
from bouvet.layers.blob import CHUNK, BlobSource, BlobWriter

DIGEST = "0" * 64


def committed(path: Path, *contents: bytes) -> tuple[BlobSource, list[tuple[Segment, ...]]]:
    """Write a blob and open it for reading; the segments are those of the contents."""
    writer = BlobWriter(path)
    segments = [writer.add_stream(io.BytesIO(content), len(content)) for content in contents]
    writer.finish()
    return BlobSource(path, writer.size, writer.checksums, DIGEST), segments


def content_of(source: BlobSource, segments: tuple[Segment, ...], size: int) -> bytes:
    """Return a file's content, read from the committed blob."""
    own = tuple(Segment(s.file_offset, s.length, source, s.source_offset) for s in segments)
    return Inode(0o100644, size=size, segments=own).content()


# Pieces of zeros and of data, in lengths around the block size.
pieces = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 255]), st.sampled_from([1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
    ),
    max_size=12,
).map(lambda rows: b"".join(bytes([value]) * length for value, length in rows))


@given(contents=st.lists(pieces, max_size=5))
def test_content_comes_back(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    source, found = committed(tmp_path_factory.mktemp("blob") / "blob", *contents)
    for content, segments in zip(contents, found, strict=True):
        assert content_of(source, segments, len(content)) == content
        for segment in segments:
            assert segment.source_offset % BLOCK == 0
            assert segment.file_offset % BLOCK == 0
        assert not any(
            content[s.file_offset + k : s.file_offset + k + BLOCK].strip(b"\0") == b""
            for s in segments
            for k in range(0, s.length, BLOCK)
        ), "a block of zeros was stored"
    source.close()


def test_a_file_longer_than_a_chunk_is_one_segment(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK + 777)
    source, (segments,) = committed(tmp_path / "blob", content)
    assert len(segments) == 1
    assert content_of(source, segments, len(content)) == content
    source.close()


def test_short_reads_of_a_stream_keep_the_alignment(tmp_path: Path) -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(1000, size or 0))

    content = os.urandom(5 * BLOCK + 5)
    writer = BlobWriter(tmp_path / "blob")
    segments = writer.add_stream(Dribble(content), len(content))
    writer.finish()
    source = BlobSource(tmp_path / "blob", writer.size, writer.checksums, DIGEST)
    assert content_of(source, segments, len(content)) == content
    source.close()


def test_a_stream_that_ends_early_is_an_error(tmp_path: Path) -> None:
    writer = BlobWriter(tmp_path / "blob")
    with pytest.raises(EOFError):
        writer.add_stream(io.BytesIO(b"abc"), 4)
    writer.close()


def test_what_was_written_can_be_read_while_the_blob_grows(tmp_path: Path) -> None:
    first, second = os.urandom(CHUNK + 5000), os.urandom(300)
    writer = BlobWriter(tmp_path / "blob")
    for content in (first, second):
        segments = writer.add_inode(regular_file(content))
        assert Inode(0o100644, size=len(content), segments=segments).content() == content
    writer.close()


@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 17])
def test_a_changed_byte_is_found_when_it_is_read(tmp_path: Path, position: int) -> None:
    content = os.urandom(2 * CHUNK + 100)
    source, (segments,) = committed(tmp_path / "blob", content)
    with (tmp_path / "blob").open("r+b") as file:
        file.seek(position)
        file.write(bytes([content[position] ^ 1]))
    with pytest.raises(LayerCorrupt) as caught:
        content_of(source, segments, len(content))
    assert caught.value.digest == DIGEST
    source.close()


def test_a_truncated_blob_is_found_when_it_is_copied(tmp_path: Path) -> None:
    content = os.urandom(2 * CHUNK)
    source, (segments,) = committed(tmp_path / "blob", content)
    os.truncate(tmp_path / "blob", CHUNK + 1)
    with (tmp_path / "target").open("wb") as target, pytest.raises(LayerCorrupt):
        source.copy(segments[0].source_offset, len(content), target.fileno(), 0)
    source.close()


def test_copy_writes_the_range_at_its_place(tmp_path: Path) -> None:
    content = os.urandom(CHUNK + 3 * BLOCK)
    source, _ = committed(tmp_path / "blob", content)
    with (tmp_path / "target").open("w+b") as target:
        source.copy(BLOCK, CHUNK, target.fileno(), 10)
        target.seek(10)
        assert target.read() == content[BLOCK : BLOCK + CHUNK]
    source.close()
