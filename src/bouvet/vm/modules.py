"""A kernel's modules: which the boot needs and in which order, and the disk that offers all to a guest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bouvet.errors import KernelError
from bouvet.formats.ext4 import Ext4Options, Ext4Reader, plan_filesystem, write_filesystem
from bouvet.formats.tree import FileTree, directory, regular_file

BOOT_MODULES = ("virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport")
"""What a machine needs before its image's own programs run: its bus, its disk, and the way to its host."""

_INDEX = ("modules.dep", "modules.builtin")


def boot_order(modules: Path, names: Sequence[str] = BOOT_MODULES) -> list[Path]:
    """Return the files of the named modules with what they depend on, in the order of loading.

    What is built into the kernel is left out.

    Args:
        modules: A directory `lib/modules/<release>` with `modules.dep` and `modules.builtin`.
        names: Names of modules, with underscores.

    Raises:
        KernelError: The kernel has no such module.
    """
    dependencies, built_in = ((modules / name).read_text() for name in _INDEX)
    return [modules / path for path in _order(dependencies, built_in, names, modules.name)]


def read_modules(disk: Path, names: Sequence[str], release: str) -> list[tuple[str, bytes]]:
    """Return the named modules, and what they depend on, from a disk that `write_modules_disk` has written.

    Args:
        disk: The disk's image.
        names: Names of modules, with underscores. What is built into the kernel is left out.
        release: The kernel's release.

    Returns:
        Each file's name and content, in the order of loading.

    Raises:
        KernelError: The kernel has no such module.
    """
    with Ext4Reader(disk) as reader:
        dependencies, built_in = (reader.read(name.encode()).decode() for name in _INDEX)
        paths = _order(dependencies, built_in, names, release)
        return [(path.rpartition("/")[2], reader.read(path.encode())) for path in paths]


def _order(dependency_index: str, built_in_index: str, names: Sequence[str], release: str) -> list[str]:
    dependencies: dict[str, list[str]] = {}
    for line in dependency_index.splitlines():
        path, _, needed = line.partition(":")
        dependencies[path] = needed.split()
    by_name = {_module_name(path): path for path in dependencies}
    built_in = {_module_name(line) for line in built_in_index.splitlines()}
    order: dict[str, None] = {}
    for name in names:
        if name in built_in:
            continue
        if name not in by_name:
            raise KernelError(f"the kernel {release} has no module '{name}'")
        # modules.dep lists everything that a module needs, what has to be loaded first at the end.
        order |= dict.fromkeys(reversed(dependencies[by_name[name]]))
        order[by_name[name]] = None
    return list(order)


def write_modules_disk(modules: Path, target: Path) -> None:
    """Write an ext4 image whose root is the directory of modules, for a guest to mount read-only.

    Equal modules give equal bytes.

    Args:
        modules: The directory `lib/modules/<release>`.
        target: The new file.

    Raises:
        ImageError: It cannot be written.
    """
    plan = plan_filesystem(_tree(modules), Ext4Options(label="modules", journal_size=0))
    with target.open("xb") as file:
        write_filesystem(plan, file.fileno())


def _tree(root: Path) -> FileTree:
    tree: FileTree = {b"": directory()}
    for parent, directories, files in os.walk(root):
        base = Path(parent)
        for name in sorted(directories):
            tree[os.fsencode((base / name).relative_to(root))] = directory()
        for name in sorted(files):
            path = base / name
            # Links lead to the kernel's headers, which are not here.
            if not path.is_symlink():
                tree[os.fsencode(path.relative_to(root))] = regular_file(path.read_bytes())
    return tree


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")
