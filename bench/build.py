"""How long does an image take after a small change, and how long by the usual way?

Builds the devbox with a file and a service of one's own, as a user does, by the command `bouvet`, and then,
in turn and each time anew:

- `first package`: one small apt package is added, its archive being there, to an image that never ran a
  command: the layers below are laid out for it first;
- `package`: the same where they are laid out already;
- `file`: one file is changed;
- `nothing`: nothing is changed;
- `usual way`: mmdebstrap with the same packages, unpacking its tar, and `mke2fs -d`, all over again. (It
  leaves out Node.js, which bouvet takes from elsewhere.)

    python bench/build.py [--preset PRESET] [--package NAME] [--count N] [--without-usual-way] [--work DIR]
        [--json FILE]

The layers of the preset are those of the user's cache, and are made first if they are not there. Everything
else happens in a cache of the benchmark's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rows import Row, write_json

from bouvet.layers.namespaces import remove_tree
from bouvet.layers.store import Store, default_root
from bouvet.spec import Spec, load

BOUVET = Path(sys.executable).with_name("bouvet")
ENVIRONMENT = {
    **os.environ,
    "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
    "LC_ALL": "C.UTF-8",
}
AIMS = {"first package": 6.0, "package": 6.0, "file": 3.0, "nothing": 1.0}
"""Seconds to a finished image, on two cores."""

USUAL = "usual way"
_FREE = 64 << 20


@dataclass
class Image:
    """The image that is built again and again.

    Attributes:
        preset: What it extends.
        package: The package that is added to it.
        work: A directory for the spec and the image.
    """

    preset: str
    package: str
    work: Path
    written: int = 0
    forgotten: int = 0
    added: bool = False
    steps: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """The benchmark's own cache."""
        return self.work / "cache"

    def take_layers(self) -> None:
        """Build the preset in the user's cache, and take its layers from there."""
        done = run(BOUVET, "build", self.preset, "--output", self.work / "preset.ext4", "--json")
        for _, digest in json.loads(done.stdout)["layers"]:
            source = default_root() / "layers" / digest
            shutil.copytree(source, self.cache / "bouvet" / "layers" / digest, copy_function=link)

    def change_file(self) -> None:
        """Give the file another content."""
        self.written += 1

    def build(self, way: str = "") -> dict[str, Any]:
        """Build it, in place of the one before; keep what each step of a way took."""
        spec = self.work / "bench.toml"
        packages = json.dumps([self.package] if self.added else [])
        spec.write_text(
            f'extends = "{self.preset}"\n[apt]\nadd = {packages}\n'
            f'[[files]]\npath = "/etc/bench"\ncontent = "{self.written}\\n"\n'
        )
        image = self.work / "bench.ext4"
        done = run(BOUVET, "build", spec, "--output", image, "--json", XDG_CACHE_HOME=str(self.cache))
        result: dict[str, Any] = json.loads(done.stdout)
        if way:
            self.steps.setdefault(way, []).append(step_seconds(done.stderr))
        return result

    def remove_package(self) -> None:
        """Return to the image without the package, and forget its layer."""
        if self.added:
            layers = dict(self.build()["layers"])
            with Store(self.cache / "bouvet") as store:
                store.evict(layers["apt"])
        self.added = False
        self.build()

    def forget_directories(self) -> None:
        """Return to where no layer is laid out."""
        self.remove_package()
        # Not deleted here: for half a minute an ext4 passes over the inodes of deleted files, one by one,
        # whenever it makes a file, which may then take a hundred times as long.
        unpacked = self.cache / "bouvet" / "unpacked"
        unpacked.rename(self.cache / f"unpacked-{self.forgotten}")
        self.forgotten += 1

    def add_package(self, way: str) -> None:
        """Build the image with the package."""
        self.added = True
        self.build(way)


def link(source: str, target: str) -> None:
    """Make a second name of a file that nobody changes, or a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def run(*argv: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{argv[0]} failed: {done.stderr}")
    return done


def step_seconds(progress: str) -> dict[str, float]:
    """Return how long each step took, by what `bouvet build` says when its output is no terminal."""
    found = {}
    for line in progress.splitlines():
        name, said, rest = line.partition(": done in ")
        if said:
            found[name] = float(rest.partition(" ")[0])
    return found


def usual_way(spec: Spec, work: Path) -> None:
    """Make the image from nothing."""
    rust = ["cargo-web", "rust-web-clippy", "rustc-web", "rustfmt-web"] if spec.rust else []
    packages = ",".join([*spec.debian.packages, *rust])
    excluded = [each.path for each in spec.slim.exclude if each.architecture in (None, platform.machine())]
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
    options += [f"--dpkgopt=path-include={pattern}" for pattern in spec.slim.keep]
    tar, root, image = work / "usual.tar", work / "usual", work / "usual.ext4"
    root.mkdir()
    run(
        *("mmdebstrap", "--quiet", "--variant=essential", *options, f"--include={packages}"),
        *(spec.debian.suite, tar),
    )
    run("tar", "-xpf", tar, "-C", root)
    size = int(run("du", "--summarize", "--block-size=1", root).stdout.split()[0]) * 11 // 10 + _FREE
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", root, image, f"{size >> 10}K")


def clean_usual_way(work: Path) -> None:
    shutil.rmtree(work / "usual", ignore_errors=True)
    for name in ("usual.tar", "usual.ext4"):
        (work / name).unlink(missing_ok=True)


def measure(image: Image, spec: Spec | None, count: int) -> dict[str, list[float]]:
    """Time each way `count` times, one after the other; what precedes each is not timed.

    Args:
        image: What is built.
        spec: What the usual way makes; None to leave it out.
        count: How often.
    """
    image.take_layers()
    image.add_package("")  # its archive is downloaded now, and so are the lists of packages
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "first package": (image.forget_directories, lambda: image.add_package("first package")),
        "package": (image.remove_package, lambda: image.add_package("package")),
        "file": (image.change_file, lambda: image.build("file")),
        "nothing": (lambda: None, lambda: image.build("nothing")),
    }
    if spec is not None:
        ways[USUAL] = (lambda: clean_usual_way(image.work), lambda: usual_way(spec, image.work))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, (prepare, way) in ways.items():
            prepare()
            os.sync()
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def table(seconds: dict[str, list[float]], image: Image) -> Iterator[str]:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    yield f"{'':14} {'median':>8} {'least':>8} {'most':>8} {'aim':>8} {'usual way / it':>16}"
    for name, values in seconds.items():
        aim = f"{AIMS[name]:7.0f}s" if name in AIMS else ""
        ratio = f"{medians[USUAL] / medians[name]:16.1f}" if USUAL in medians else ""
        row = f"{name:14} {medians[name]:7.2f}s {min(values):7.2f}s {max(values):7.2f}s {aim:>8} {ratio}"
        yield row.rstrip()
    for name, runs in image.steps.items():
        steps = {step: statistics.median(run.get(step, 0.0) for run in runs) for step in runs[0]}
        told = ", ".join(f"{step} {value:.1f} s" for step, value in steps.items() if value >= 0.1)
        if told:
            yield f"{name}: {told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="devbox", help="what is built")
    parser.add_argument("--package", default="figlet", help="the Debian package that is added")
    parser.add_argument("--count", type=int, default=3, help="how often to time each way")
    parser.add_argument("--without-usual-way", action="store_true", help="leave the comparison out")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to work")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="bouvet-bench-") as directory:
        image = Image(arguments.preset, arguments.package, Path(directory))
        spec = None if arguments.without_usual_way else load(arguments.preset)
        try:
            seconds = measure(image, spec, arguments.count)
        finally:
            # An ordinary user's laid out layers have other owners.
            remove_tree(image.cache)
    if arguments.json:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        found = {"seconds": seconds, "medians": medians, "aims": AIMS, "steps": image.steps}
        rows = [
            Row(name, median, "s", USUAL, medians.get(USUAL), f"at most {AIMS[name]:g} s")
            for name, median in medians.items()
            if name in AIMS
        ]
        write_json(arguments.json, rows, found)
    print("\n".join(table(seconds, image)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
