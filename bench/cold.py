"""How long does an image take from nothing but downloaded packages, and how long does mmdebstrap alone?

Each time anew, and in turn, with all `.deb` files already there:

- `first`: `bouvet build` in an empty cache, to the finished ext4 image;
- `again`: the same where packages were decompressed by an earlier build;
- `mmdebstrap`: mmdebstrap with the same packages to a tar, on the disk;
- `mmdebstrap in memory`: the same in /dev/shm, its tar too. Neither makes an image of it, nor has Node.js.

    python bench/cold.py [--preset PRESET] [--count N] [--without-mmdebstrap] [--work DIR] [--json FILE]

Beside the seconds stands the processor time of all programs, which other work on the machine changes less.
Packages are taken from the user's cache, where there are any; else the first, untimed build downloads them.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import Row, write_json

from bouvet.layers.debian_archives import plain
from bouvet.layers.namespaces import remove_tree
from bouvet.layers.store import default_root
from bouvet.spec import Spec, load

BOUVET = Path(sys.executable).with_name("bouvet")
MEMORY = Path("/dev/shm")
AIM = 25.0
"""Seconds to a finished devbox, on two cores."""


@dataclass(frozen=True)
class Run:
    """What one run took: wall time, and processor time of all programs, in seconds."""

    wall: float
    processor: float


class Cold:
    """Builds from nothing.

    Args:
        preset: What is built.
        work: An empty directory.
    """

    def __init__(self, preset: str, work: Path) -> None:
        self._preset = preset
        self._spec: Spec = load(preset)
        self._work = work
        self._cache = work / "cache"
        self._downloads = self._cache / "bouvet" / "downloads"
        present = default_root() / "downloads"
        for kind in ("debian", "node", "nodejs_org"):
            if (present / kind).is_dir():
                shutil.copytree(present / kind, self._downloads / kind, copy_function=_link)
        self.build()
        self._packages = work / "packages"
        self._packages.mkdir()
        for kept in (self._downloads / "debian").glob("*.deb.*"):
            _link(str(kept), str(self._packages / kept.name.rpartition(".")[0]))

    def forget(self) -> None:
        """Forget all but the downloads."""
        for name in ("layers", "unpacked", "plans"):
            remove_tree(self._cache / "bouvet" / name)
        for path in self._work.glob("cold*"):
            path.unlink()

    def forget_decompressed(self) -> None:
        """Forget what was made of the packages, too."""
        self.forget()
        remove_tree(plain(self._downloads / "debian"))

    def build(self) -> None:
        """Build the image."""
        image = self._work / "cold.ext4"
        _run([BOUVET, "build", self._preset, "--quiet", "--output", image], XDG_CACHE_HOME=str(self._cache))

    def run_mmdebstrap(self, directory: Path) -> None:
        """Have mmdebstrap make a tar in a directory, and remove it."""
        spec = self._spec
        rust = ["cargo-web", "rust-web-clippy", "rustc-web", "rustfmt-web"] if spec.rust else []
        excluded = [
            each.path for each in spec.slim.exclude if each.architecture in {None, platform.machine()}
        ]
        options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
        options += [f"--dpkgopt=path-include={pattern}" for pattern in spec.slim.keep]
        archives = '"$1"/var/cache/apt/archives'
        copy = f"mkdir -p {archives} && cp {shlex.quote(str(self._packages))}/*.deb {archives}"
        tar = directory / "bouvet-bench.tar"
        try:
            _run(
                [
                    *("mmdebstrap", "--quiet", "--variant=essential", f"--setup-hook={copy}", *options),
                    *("--skip=essential/unlink", f"--include={','.join([*spec.debian.packages, *rust])}"),
                    *(spec.debian.suite, tar),
                ],
                TMPDIR=str(directory),
            )
        finally:
            tar.unlink(missing_ok=True)

    def ways(self, *, compare: bool) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
        """Return what precedes each way, untimed, and the way."""
        found: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "first": (self.forget_decompressed, self.build),
            "again": (self.forget, self.build),
        }
        if compare:
            found["mmdebstrap"] = (lambda: None, lambda: self.run_mmdebstrap(self._work))
            found["mmdebstrap in memory"] = (lambda: None, lambda: self.run_mmdebstrap(MEMORY))
        return found


def _link(source: str, target: str) -> None:
    """Make a second name of a file that nobody changes, or a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _run(argv: list[str | Path], **environment: str) -> None:
    done = subprocess.run(
        argv,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{argv[0]} failed: {done.stderr}")


def measure(cold: Cold, count: int, *, compare: bool) -> dict[str, list[Run]]:
    """Run each way `count` times, one after the other."""
    runs: dict[str, list[Run]] = {}
    for _ in range(count):
        for name, (prepare, way) in cold.ways(compare=compare).items():
            prepare()
            os.sync()
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            way()
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            runs.setdefault(name, []).append(Run(wall, processor))
    return runs


def table(runs: dict[str, list[Run]]) -> Iterator[str]:
    yield f"{'':22} {'median':>8} {'least':>8} {'most':>8} {'processor':>10}"
    for name, each in runs.items():
        walls = [run.wall for run in each]
        processor = statistics.median(run.processor for run in each)
        yield (
            f"{name:22} {statistics.median(walls):7.1f}s {min(walls):7.1f}s {max(walls):7.1f}s "
            f"{processor:9.1f}s"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="devbox", help="what is built")
    parser.add_argument("--count", type=int, default=3, help="how often to time each way")
    parser.add_argument("--without-mmdebstrap", action="store_true", help="leave the comparison out")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to work")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="bouvet-bench-") as directory:
        cold = Cold(arguments.preset, Path(directory))
        runs = measure(cold, arguments.count, compare=not arguments.without_mmdebstrap)
    if arguments.json:
        walls = {name: statistics.median(run.wall for run in each) for name, each in runs.items()}
        reference = "mmdebstrap in memory"
        aim = f"at most {AIM:g} s" if arguments.preset == "devbox" else ""
        rows = [
            Row(f"{name} build", walls[name], "s", reference, walls.get(reference), aim)
            for name in ("first", "again")
        ]
        processor = {name: statistics.median(run.processor for run in each) for name, each in runs.items()}
        rows += [
            Row(f"{name} build, processor time", processor[name], "s", reference, processor.get(reference))
            for name in ("first", "again")
        ]
        write_json(arguments.json, rows, {name: [vars(run) for run in each] for name, each in runs.items()})
    print("\n".join(table(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
