"""Is writing an ext4 image much slower than copying it, and how much faster than the usual way?

Compares, interleaved and each ended by fsync:

- `writer`: planning and writing the image from a cached layer;
- `cp`: copying that image, the least that any way of making it could cost;
- `mke2fs`: unpacking a tar of the same files and `mke2fs -d`, the usual way without a mount.

    python bench/ext4.py [--tar FILE | --directory DIR | --entries N --bytes N] [--count N] [--json FILE]

By default the files are made up, the same ones each time: as many and as large as the devbox's.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import Row, write_json

from bouvet.formats.ext4 import Ext4Options, plan_filesystem, write_filesystem
from bouvet.formats.tree import FileTree
from bouvet.layers.store import Store
from bouvet.layers.writer import LayerWriter

ENVIRONMENT = {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
DEVBOX_ENTRIES = 28_000
DEVBOX_BYTES = 1_600_000_000
FILES_IN_DIRECTORY = 10


def make_tar(path: Path, entries: int, size: int) -> None:
    """Write a tar of made-up files: mostly small, a few large, ten to a directory."""
    choice = random.Random(2)
    files = entries * FILES_IN_DIRECTORY // (FILES_IN_DIRECTORY + 1)
    weights = [choice.lognormvariate(0, 2.2) for _ in range(files)]
    total = sum(weights)
    noise = choice.randbytes(1 << 24)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for index, weight in enumerate(weights):
            folder = f"usr/d{index // 1000}/s{index // FILES_IN_DIRECTORY}"
            if index % FILES_IN_DIRECTORY == 0:
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            info = tarfile.TarInfo(f"{folder}/file{index}")
            info.size, info.mtime = round(weight / total * size), 1_700_000_000
            start = choice.randrange(1 << 20)
            repeated = -(-(start + info.size) // len(noise))
            archive.addfile(info, io.BytesIO((noise * repeated)[start : start + info.size]))


def load(tar: Path, store: Store) -> FileTree:
    """Make a layer of a tar, as a build does."""

    def fill(writer: LayerWriter) -> None:
        with tar.open("rb") as stream:
            writer.add_tar(stream)

    return store.make("bench", "0" * 64, fill, lambda: None).tree


def synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def run(*argv: str | Path) -> None:
    subprocess.run(
        argv,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def write(tree: FileTree, image: Path) -> None:
    plan = plan_filesystem(tree, Ext4Options())
    with image.open("wb") as file:
        write_filesystem(plan, file.fileno())
        os.fsync(file.fileno())


def copy(image: Path, target: Path) -> None:
    run("cp", image, target)
    synchronize(target)


def unpack_and_mke2fs(tar: Path, root: Path, target: Path, size: int) -> None:
    root.mkdir()
    run("tar", "-xpf", tar, "-C", root)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", root, target, f"{size >> 10}K")
    synchronize(target)


@dataclass(frozen=True)
class Result:
    """What was measured, of which files."""

    entries: int
    data_bytes: int
    image_bytes: int
    copies: int
    seconds: dict[str, list[float]]

    @property
    def overhead(self) -> float:
        """The image's bytes over its data's, as a fraction of these."""
        return (self.image_bytes - self.data_bytes) / self.data_bytes

    @property
    def medians(self) -> dict[str, float]:
        """The median seconds of each way."""
        return {name: statistics.median(values) for name, values in self.seconds.items()}

    @property
    def writer_over_cp(self) -> float:
        """How many times longer writing takes than copying."""
        return self.medians["writer"] / self.medians["cp"]

    @property
    def mke2fs_over_writer(self) -> float:
        """How many times longer unpacking and `mke2fs -d` take than writing."""
        return self.medians["mke2fs"] / self.medians["writer"]


def measure(
    ways: dict[str, Callable[[], object]], count: int, clean: Callable[[], None]
) -> dict[str, list[float]]:
    """Time each way `count` times, one after the other; nothing of one run is there in the next."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, way in ways.items():
            clean()
            os.sync()
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    clean()
    return seconds


def compare(tar: Path, tree: FileTree, work: Path, count: int) -> Result:
    plan = plan_filesystem(tree, Ext4Options())
    original, image, target, root = (work / name for name in ("original", "image", "target", "root"))
    write(tree, original)
    run("e2fsck", "-fn", original)

    def clean() -> None:
        image.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        shutil.rmtree(root, ignore_errors=True)

    ways: dict[str, Callable[[], object]] = {
        "writer": lambda: write(tree, image),
        "cp": lambda: copy(original, target),
        "mke2fs": lambda: unpack_and_mke2fs(tar, root, target, plan.size * 11 // 10 + (16 << 20)),
        "plan alone": lambda: plan_filesystem(tree, Ext4Options()),
    }
    seconds = measure(ways, count, clean)
    return Result(len(tree), plan.data_bytes, plan.size, len(plan.copies), seconds)


def table(result: Result) -> Iterator[str]:
    yield (
        f"{result.entries} entries, {result.data_bytes} bytes of data, {result.image_bytes} of image: "
        f"overhead {result.overhead:.2%}, {result.copies} copies"
    )
    yield f"{'':12} {'median':>8} {'least':>8} {'most':>8} {'over cp':>8}"
    for name, values in result.seconds.items():
        median = result.medians[name]
        ratio = median / result.medians["cp"]
        yield f"{name:12} {median:7.2f}s {min(values):7.2f}s {max(values):7.2f}s {ratio:8.2f}"
    yield f"writer / cp: {result.writer_over_cp:.2f} (aim: at most 2.2)"
    yield f"mke2fs / writer: {result.mke2fs_over_writer:.2f} (aim: at least 3)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--tar", type=Path, help="take the files from this tar")
    given.add_argument("--directory", type=Path, help="take the files from this directory")
    parser.add_argument("--entries", type=int, default=DEVBOX_ENTRIES, help="how many files to make up")
    parser.add_argument("--bytes", type=int, default=DEVBOX_BYTES, help="how many bytes to make up")
    parser.add_argument("--count", type=int, default=5, help="how often to time each way")
    parser.add_argument("--work", type=Path, help="where to work (default: the temporary directory)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="bouvet-bench-") as directory:
        work = Path(directory)
        tar = arguments.tar or work / "tar"
        if arguments.directory:
            run("tar", "--one-file-system", "-cf", tar, "-C", arguments.directory, ".")
        elif not arguments.tar:
            make_tar(tar, arguments.entries, arguments.bytes)
        with Store(work / "cache") as store:
            result = compare(tar, load(tar, store), work, arguments.count)
    if arguments.json:
        derived = {
            "overhead": result.overhead,
            "medians": result.medians,
            "writer_over_cp": result.writer_over_cp,
            "mke2fs_over_writer": result.mke2fs_over_writer,
        }
        medians = result.medians
        rows = [
            Row("image from layers", medians["writer"], "s", "cp with fsync", medians["cp"], "at most 1.25"),
            Row("image from layers", medians["writer"], "s", "untar and mke2fs -d", medians["mke2fs"]),
        ]
        write_json(arguments.json, rows, dataclasses.asdict(result) | derived)
    print("\n".join(table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
