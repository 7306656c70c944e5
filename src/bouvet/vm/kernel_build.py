"""Builds a kernel from Debian's source package and configuration files.

Firecracker's guests boot kernels that have everything built in; their configurations are published with
Firecracker (`resources/guest_configs`). Debian's `linux-source-*` package has the sources with Debian's
security fixes. What makes a build depend on its time, host and user is fixed, as the kernel's
Documentation/kbuild/reproducible-builds.rst says.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bouvet import process
from bouvet.errors import KernelError
from bouvet.events import Listener, StepProgress, ToolOutput, ignore

SOURCES = Path("/usr/src")
"""Where Debian's package puts its tarball."""

PACKAGES = "linux-source-6.1 bc bison flex gcc libelf-dev make xz-utils"

_TARGETS = {"x86_64": ("x86", "bzImage", "arch/x86/boot/bzImage")}
_STEP = "kernel"


def find_source() -> Path:
    """Return the newest tarball of Debian's kernel sources on this host.

    Raises:
        KernelError: There is none.
    """
    found = sorted(SOURCES.glob("linux-source-*.tar.xz"))
    if not found:
        raise KernelError("there are no kernel sources on this host", hint=f"apt-get install {PACKAGES}")
    return found[-1]


def build_kernel(
    configs: Sequence[Path],
    target: Path,
    *,
    architecture: str,
    source: Path | None = None,
    scratch: Path | None = None,
    listener: Listener = ignore,
) -> None:
    """Build a kernel, which takes minutes, and put its image at `target`.

    Args:
        configs: Configuration files; where they differ the later one counts. What they leave open gets
            its default.
        target: The image's path; it appears whole or not at all.
        architecture: `x86_64`.
        source: A tarball of the sources; Debian's package by default.
        scratch: A directory for the 2 GB that a build needs; the system's temporary one by default.
        listener: Is told of the progress.

    Raises:
        KernelError: A file is missing, or the architecture is none that can be built.
        ToolMissing: A tool is not installed.
        CommandFailed: The build failed.
    """
    if architecture not in _TARGETS:
        raise KernelError(f"kernels for {architecture} cannot be built here")
    arch, goal, image = _TARGETS[architecture]
    source = source or find_source()
    try:
        settings = "".join(path.read_text(encoding="utf-8") + "\n" for path in configs)
    except OSError as error:
        raise KernelError(f"cannot read the configuration {error.filename}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="bouvet-kernel-", dir=scratch) as directory:
        tree = Path(directory)
        listener(StepProgress(_STEP, f"unpacking {source.name}"))
        unpack = ["tar", "--extract", "--file", str(source.resolve()), "--strip-components=1"]
        process.run([*unpack, "--directory", directory], hint=f"apt-get install {PACKAGES}")
        (tree / ".config").write_text(settings, encoding="utf-8")
        _make(tree, arch, ["olddefconfig"], listener)
        listener(StepProgress(_STEP, f"compiling {goal}"))
        _make(tree, arch, [f"-j{len(os.sched_getaffinity(0))}", goal], listener)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            beside.write_bytes((tree / image).read_bytes())
            beside.replace(target)
        except OSError as error:
            raise KernelError(f"cannot write {target}: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)


def _make(tree: Path, arch: str, arguments: Sequence[str], listener: Listener) -> None:
    fixed = {
        "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00:00 UTC",
        "KBUILD_BUILD_USER": "bouvet",
        "KBUILD_BUILD_HOST": "bouvet",
        "KBUILD_BUILD_VERSION": "1",
    }
    process.run(
        ["make", f"ARCH={arch}", *arguments],
        cwd=tree,
        env=process.clean_environment(fixed),
        on_line=lambda line: listener(ToolOutput(_STEP, line)),
        hint=f"the build needs: apt-get install {PACKAGES}",
    )
