"""What an image goes without: for each exclusion of its spec, what the packages would have brought.

The sizes are those of the files in the `.deb`s of the Debian layer, which are kept between builds.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import LayerError
from bouvet.layers import debian_archives
from bouvet.layers.store import Store, default_root
from bouvet.order import Order


@dataclass(frozen=True, slots=True)
class Saving:
    """What one exclusion saves.

    Attributes:
        path: The exclusion's pattern.
        reason: Why nothing needs what it matches.
        files: How many regular files it keeps out of the image; one that several patterns match is the
            first one's.
        size: Their bytes.
    """

    path: str
    reason: str
    files: int
    size: int


class Rules:
    """A layer's exclusions, and what stays all the same, as dpkg applies them: see dpkg(1), `--path-exclude`.

    Args:
        exclude: Patterns of paths that are left out.
        keep: Patterns of paths that stay.
    """

    def __init__(self, exclude: Sequence[str], keep: Sequence[str]) -> None:
        self._exclude = [re.compile(fnmatch.translate(pattern)) for pattern in exclude]
        self._keep = [re.compile(fnmatch.translate(pattern)) for pattern in keep]

    def excluding(self, path: str) -> int | None:
        """Return the number of the first pattern that leaves a path out, None if it stays."""
        number = next((number for number, each in enumerate(self._exclude) if each.match(path)), None)
        if number is None or any(each.match(path) for each in self._keep):
            return None
        return number


def savings(order: Order, *, cache: Path | None = None) -> list[Saving]:
    """Return what each exclusion of an order's spec saves, in the spec's order.

    Args:
        order: What has been built; it has to have a Debian layer.
        cache: The cache's directory; the user's by default.

    Raises:
        LayerError: The image was not built yet, its packages are no longer kept or
            damaged, or it has none of Debian's.
        ToolMissing: dpkg-deb is not installed.
    """
    step = next((step for step in order.steps if step.name == "debian"), None)
    if step is None:
        raise LayerError("the image does not start with Debian's packages", hint="[slim] goes with [debian]")
    with Store(cache or default_root()) as store:
        layer = store.get(step.digest)
        if layer is None:
            raise LayerError(
                "the image was not built yet", hint="build it first: the sizes are its packages'"
            )
        downloads = store.downloads("debian")
        kept = [
            downloads / f"{debian_archives.file_name(artifact)}.{artifact.sha256}"
            for artifact in layer.provenance.artifacts
        ]
        if missing := tuple(path.name for path in kept if not path.exists()):
            raise LayerError(
                "the packages of the image are no longer kept", hint="build with --refresh", details=missing
            )
        # Those that are decompressed already are read much faster.
        plain = {path.name.partition(".")[0]: path for path in debian_archives.plain(downloads).glob("*.*")}
        kept = [plain.get(path.name.rpartition(".")[2], path) for path in kept]
        exclusions = order.spec.slim.exclude
        exclusions = tuple(each for each in exclusions if each.architecture in {None, order.architecture})
        rules = Rules([each.path for each in exclusions], order.spec.slim.keep)
        files, sizes = [0] * len(exclusions), [0] * len(exclusions)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(lambda path: _left_out(path, rules), kept):
                for number, size in found:
                    files[number] += 1
                    sizes[number] += size
    return [
        Saving(each.path, each.reason, count, size)
        for each, count, size in zip(exclusions, files, sizes, strict=True)
    ]


def _left_out(package: Path, rules: Rules) -> list[tuple[int, int]]:
    """Return, for each regular file that is left out of a package, its pattern's number and its size."""
    argv = [process.find_tool("dpkg-deb", package="dpkg"), "--fsys-tarfile", str(package)]
    found = []
    with process.start(argv) as child:
        assert child.stdout is not None
        try:
            with tarfile.open(fileobj=child.stdout, mode="r|") as tar:
                for member in tar:
                    number = rules.excluding(member.name.removeprefix(".")) if member.isreg() else None
                    if number is not None:
                        found.append((number, member.size))
        except tarfile.TarError as error:
            raise LayerError(f"the package {package.name} cannot be read: {error}") from error
    return found
