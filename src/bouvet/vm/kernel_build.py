"""Building a kernel from Debian's source with a configuration of one's own.

The result has Debian's security fixes, and what the configuration says: for example all that a machine
needs built in, so that it boots without modules.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bouvet import process
from bouvet.errors import KernelError
from bouvet.events import Listener, StepFinished, StepStarted, ToolOutput, ignore
from bouvet.vm.debian_kernel import DebianKernel, download_source

_STEP = "kernel"
_KBUILD_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
_TARGETS = {"x86_64": "vmlinux", "aarch64": "arch/arm64/boot/Image"}
_TOOLS = {"make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils"}


def build_kernel(
    source: DebianKernel,
    configurations: Sequence[Path],
    output: Path,
    *,
    work: Path = Path("/var/tmp"),  # noqa: S108  (a fresh directory is made in it)
    jobs: int | None = None,
    listener: Listener = ignore,
) -> str:
    """Build a kernel and return its release. It takes some minutes, and 3 GB of disk space.

    Args:
        source: The version of the source; `architecture` is what is built for, if need be by a cross
            compiler.
        configurations: Files in the kernel's `.config` format; a later one overrides an earlier one. What
            none of them says gets the kernel's default.
        output: The image: an ELF `vmlinux` for x86_64, an `Image` for aarch64.
        work: Where to build.
        jobs: How many compilers run at once; by default one for each processor.
        listener: Told about progress, and each line that the tools print.

    Raises:
        KernelError: There is no source, or the configuration cannot be read.
        CommandFailed: It cannot be built.
        ToolMissing: A program that the build needs is not installed.
    """
    for tool, package in _TOOLS.items():
        process.find_tool(tool, package=package)
    started = time.monotonic()
    listener(StepStarted(_STEP, f"building for {source.architecture}"))
    with tempfile.TemporaryDirectory(prefix="bouvet-kernel-", dir=work) as directory:
        tree = _unpack_source(source, Path(directory), listener)
        _configure(tree, configurations)
        make = _make(source.architecture, jobs or os.cpu_count() or 1)
        for target in ("olddefconfig", _TARGETS[source.architecture].rpartition("/")[2]):
            process.run([*make, target], cwd=tree, on_line=lambda line: listener(ToolOutput(_STEP, line)))
        release = process.run([*make, "--silent", "kernelrelease"], cwd=tree).stdout.decode().strip()
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / _TARGETS[source.architecture], output)
    listener(StepFinished(_STEP, time.monotonic() - started, release))
    return release


def _unpack_source(source: DebianKernel, directory: Path, listener: Listener) -> Path:
    download = directory / "download"
    download.mkdir()
    package = download_source(source, download, lambda line: listener(ToolOutput(_STEP, line)))
    process.run(["dpkg-deb", "--extract", str(package), str(directory / "package")])
    (archive,) = (directory / "package" / "usr" / "src").glob("linux-source-*.tar.xz")
    process.run(
        ["tar", "--extract", "--no-same-owner", "--file", str(archive), "--directory", str(directory)]
    )
    archive.unlink()
    return directory / archive.name.removesuffix(".tar.xz")


def _configure(tree: Path, configurations: Sequence[Path]) -> None:
    """Join the configurations: of two values for one option the last counts."""
    try:
        joined = b"\n".join(path.read_bytes() for path in configurations)
    except OSError as error:
        raise KernelError(f"the configuration {error.filename} cannot be read: {error.strerror}") from error
    (tree / ".config").write_bytes(joined)


def _make(architecture: str, jobs: int) -> list[str]:
    argv = [process.find_tool("make"), f"--jobs={jobs}", f"ARCH={_KBUILD_ARCHITECTURES[architecture]}"]
    if os.uname().machine != architecture:
        compiler = process.find_tool(f"{architecture}-linux-gnu-gcc", package=f"gcc-{architecture}-linux-gnu")
        argv.append(f"CROSS_COMPILE={compiler.removesuffix('gcc')}")
    return argv
