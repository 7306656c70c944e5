"""The process that has mmdebstrap make a tree and writes it as a layer: `... bootstrapping SETTINGS`.

It runs in `namespaces`, where files have their real owners and mounts end with their processes. The tree
is in memory where that is enough: thousands of small files are written and read again, and removed
with the mount. What mmdebstrap prints goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import BouvetError
from bouvet.layers import mounts
from bouvet.layers.debian_tree import Settling
from bouvet.layers.directory import add_directory
from bouvet.layers.writer import LayerWriter


@dataclass(frozen=True, slots=True)
class Settings:
    """What the process is told, in a JSON file.

    Attributes:
        argv: mmdebstrap's command line, which makes a directory.
        environment: Its whole environment.
        tree: That directory; it exists and is empty.
        memory: How many bytes of memory the tree may take, 0 if it is made on the disk.
        output: An existing directory, which gets the layer.
    """

    argv: list[str]
    environment: dict[str, str]
    tree: str
    memory: int
    output: str

    def write(self, path: Path) -> None:
        """Write them for the process to read."""
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_bytes()))


def main(settings: Settings) -> int:
    """Make the tree and write it; return mmdebstrap's exit status."""
    process.end_on_sigterm()
    if settings.memory:
        mounts.mount("tmpfs", settings.tree, options=f"mode=755,size={settings.memory}")
    settling = Settling(int(time.time()) * 1_000_000_000)
    with process.start(settings.argv, env=settings.environment, stdout=2, stderr=2) as child:
        if status := child.wait():
            return status
    sys.stderr.write("I: reading the tree\n")
    layer = LayerWriter(Path(settings.output))
    try:
        add_directory(layer, os.fsencode(settings.tree), settling.keep)
        settling.settle()
        layer.commit()
    finally:
        layer.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Settings.read(Path(sys.argv[1]))))
    except BouvetError as error:
        sys.exit(f"E: {error.message}")
    except OSError as error:
        sys.exit(f"E: {error.filename or 'the layer'}: {error.strerror}")
