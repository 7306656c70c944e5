"""The cache: commits, locks, corruption, what a killed process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bouvet.errors import CacheError, LayerCorrupt
from bouvet.formats.tree import regular_file
from bouvet.layers.blob import CHUNK
from bouvet.layers.layer import Layer
from bouvet.layers.store import Store
from bouvet.layers.writer import LayerWriter

DIGEST = "ab" * 32


def fill(writer: LayerWriter) -> None:
    writer.add(b"file", regular_file(b"content" * CHUNK))
    writer.add(b"name-\xff", regular_file(b"x"))


def never() -> None:
    pytest.fail("nobody else makes this layer")


def make(store: Store, digest: str = DIGEST) -> Layer:
    return store.make("step", digest, fill, never)


def test_a_layer_comes_back_as_it_was_made(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.get(DIGEST) is None
        make(store)
    with Store(tmp_path) as store:
        layer = store.get(DIGEST)
        assert layer is not None
        assert (layer.name, layer.digest) == ("step", DIGEST)
        assert layer.tree[b"file"].content() == b"content" * CHUNK
        assert layer.tree[b"name-\xff"].content() == b"x"


def test_a_layer_is_made_once(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        make(store)
        store.make("step", DIGEST, lambda _: pytest.fail("made again"), never)


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(writer: LayerWriter) -> None:
        fill(writer)
        raise CacheError("no")

    with Store(tmp_path) as store, pytest.raises(CacheError):
        store.make("step", DIGEST, fail, never)
    assert list((tmp_path / "layers").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("name", ["index.json", "seal.json", "blob"])
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_layer_is_found_and_can_be_made_again(tmp_path: Path, name: str, damage: str) -> None:
    with Store(tmp_path) as store:
        make(store)
        path = tmp_path / "layers" / DIGEST / name
        if damage == "remove":
            path.unlink()
        else:
            os.truncate(path, path.stat().st_size // 2)
        if (name, damage) == ("seal.json", "remove"):
            assert store.get(DIGEST) is None
        else:
            with pytest.raises(LayerCorrupt) as caught:
                store.get(DIGEST)
            assert caught.value.digest == DIGEST
            store.evict(DIGEST)
        assert make(store).tree[b"name-\xff"].content() == b"x"


def test_a_flipped_byte_of_the_blob_is_found_when_it_is_read(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        layer = make(store)
        blob = tmp_path / "layers" / DIGEST / "blob"
        with blob.open("r+b") as file:
            file.seek(3 * CHUNK)
            file.write(b"\0")
        with pytest.raises(LayerCorrupt):
            layer.tree[b"file"].content()
        store.evict(DIGEST)
        assert make(store).tree[b"file"].content() == b"content" * CHUNK


def test_two_stores_make_a_layer_once(tmp_path: Path) -> None:
    """The second waits for the first, says so, and takes what the first made."""
    began, waits = threading.Event(), threading.Event()
    made = []

    def slow(writer: LayerWriter) -> None:
        made.append("first")
        began.set()
        assert waits.wait(10)
        fill(writer)

    def first() -> None:
        with Store(tmp_path) as store:
            store.make("step", DIGEST, slow, never)

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(10)
    with Store(tmp_path) as store:
        layer = store.make("step", DIGEST, lambda _: made.append("second"), waits.set)
        assert layer.tree[b"file"].size == 7 * CHUNK
    thread.join()
    assert made == ["first"]


def test_a_layer_that_another_reads_is_not_waited_for(tmp_path: Path) -> None:
    """Two builds that read each other's layers, and both meant to make them, must not block each other."""
    with Store(tmp_path) as first, Store(tmp_path) as second:
        make(first, "01" * 32)
        make(second, "02" * 32)
        assert make(second, "01" * 32).tree.keys() == make(first, "02" * 32).tree.keys()


def test_waiting_for_another_can_be_ended(tmp_path: Path) -> None:
    with Store(tmp_path) as maker, Store(tmp_path) as waiter:

        def while_making(writer: LayerWriter) -> None:
            fill(writer)
            with pytest.raises(CacheError, match="waiting"):
                waiter.make("step", DIGEST, fill, waiter.cancel)

        maker.make("step", DIGEST, while_making, never)


def test_an_evicted_layer_is_read_on_by_who_has_it(tmp_path: Path) -> None:
    with Store(tmp_path) as reader, Store(tmp_path) as other:
        layer = make(reader)
        other.evict(DIGEST)
        assert layer.tree[b"file"].content() == b"content" * CHUNK
        assert other.get(DIGEST) is None


def test_an_evicted_layer_stays_laid_out_while_another_uses_it(tmp_path: Path) -> None:
    laid_out = tmp_path / "unpacked" / DIGEST
    with Store(tmp_path) as other, Store(tmp_path) as user:
        make(user)
        laid_out.mkdir()
        (laid_out / "file").write_text("content")
        directory = os.open(laid_out, os.O_RDONLY)
        other.evict(DIGEST)
        assert not laid_out.exists(), "nobody begins to use it any more"
        with Store(tmp_path):
            assert os.listdir(directory) == ["file"]  # noqa: PTH208  (wherever it is now)
        os.close(directory)
    with Store(tmp_path):
        assert list((tmp_path / "unpacked").iterdir()) == []


def test_a_laid_out_layer_that_nobody_uses_is_evicted_with_the_layer(tmp_path: Path) -> None:
    with Store(tmp_path) as maker:
        make(maker)
    (tmp_path / "unpacked" / DIGEST).mkdir()
    with Store(tmp_path) as store:
        store.evict(DIGEST)
        assert list((tmp_path / "unpacked").iterdir()) == []


def test_prune_removes_what_was_not_used(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        make(store)
        os.utime(tmp_path / "layers" / DIGEST / "seal.json", (0, 0))
        make(store, "cd" * 32)
    with Store(tmp_path) as store:
        assert [entry.digest for entry in store.prune(86400)] == [DIGEST]
        assert [entry.digest for entry in store.entries()] == ["cd" * 32]
        assert store.entries()[0].size >= 4096


def test_prune_keeps_what_another_uses(tmp_path: Path) -> None:
    with Store(tmp_path) as reader, Store(tmp_path) as pruner:
        layer = make(reader)
        assert pruner.prune(-1) == []
        assert layer.tree[b"file"].content() == b"content" * CHUNK
    with Store(tmp_path) as pruner:
        assert len(pruner.prune(-1)) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from bouvet.layers.store import Store
from bouvet.formats.tree import regular_file
def fill(writer):
    writer.add(b"file", regular_file(bytes([1]) * 5000000))
    os.kill(os.getpid(), signal.SIGKILL)
Store(Path(sys.argv[1])).make("step", "ab" * 32, fill, lambda: None)
"""


def test_a_killed_maker_leaves_no_lock_and_no_half_a_layer(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "layers").iterdir()) == []
    assert len(list((tmp_path / "work").iterdir())) == 2
    with Store(tmp_path) as store:
        assert len(list((tmp_path / "work").iterdir())) == 2, "only this store's own"
        make(store)
    assert list((tmp_path / "work").iterdir()) == []


def test_the_scratch_space_of_a_living_process_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as first:
        scratch = first.scratch()
        with Store(tmp_path):
            assert scratch.is_dir()


def test_a_cache_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError) as caught:
        Store(tmp_path / "file" / "cache")
    assert "XDG_CACHE_HOME" in (caught.value.hint or "")


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount", "umount")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "none", str(small)], check=True)
    try:
        with Store(small) as store:
            with pytest.raises(CacheError) as caught:
                make(store)
            assert "room" in (caught.value.hint or "")
            assert store.entries() == []
        assert list((small / "work").iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
