"""Debian's kernels, taken out of their packages without installing them.

mmdebstrap sets up apt in a directory of its own, for any architecture and without privileges, with the
mirror that Debian's layers come from; apt verifies the archive's signature and the package's digest.
Nothing is installed: a hook asks apt for the package that the meta package names today.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import CommandFailed, KernelError

DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's name of each architecture."""

DOWNLOAD_SECONDS = 900

_HOOK = """\
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-cache depends {meta} | sed -n 's/^ *Depends: \\({name}.*\\)$/\\1/p' >name
test -s name
apt-cache show --no-all-versions "$(cat name)" | sed -n 's/^SHA256: //p' >digest
test -s digest
test -e {known}/"$(cat digest)" || apt-get download "$(cat name)"
"""


@dataclass(frozen=True, slots=True)
class DebianKernel:
    """Debian's cloud kernel: the newest of a suite, security updates included.

    Its source, for those who build another, has the same version.

    Attributes:
        architecture: `x86_64` or `aarch64`.
        suite: Debian's release, for example `bookworm`.
        sources: mmdebstrap's MIRROR arguments; none for its own default.
        sha256: The digest of the one package that will do, in hexadecimal; None for the newest.
    """

    architecture: str
    suite: str = "bookworm"
    sources: tuple[str, ...] = ()
    sha256: str | None = None


def download_image(
    source: DebianKernel, directory: Path, kernels: Path, on_line: Callable[[str], None]
) -> tuple[str, Path | None]:
    """Download the newest cloud kernel's package unless the cache has it.

    Args:
        source: Which one.
        directory: An empty directory to work in.
        kernels: The cache: a package whose digest is the name of something in it is not downloaded.
        on_line: Called with each line that the tools print.

    Returns:
        The package's SHA-256 in hexadecimal, and its file, None if it was not downloaded.

    Raises:
        KernelError: The archive cannot be read, or has no such kernel.
        ToolMissing: mmdebstrap is not installed.
    """
    meta = f"linux-image-cloud-{DEBIAN_ARCHITECTURES[source.architecture]}"
    _download(source, _HOOK.format(meta=meta, name="linux-image-", known=_quote(kernels)), directory, on_line)
    return (directory / "digest").read_text().strip(), next(directory.glob("*.deb"), None)


def download_source(source: DebianKernel, directory: Path, on_line: Callable[[str], None]) -> Path:
    """Download the package with the kernel's source, and return its file.

    Args:
        source: The kernel.
        directory: An empty directory to work in.
        on_line: Called with each line that the tools print.

    Raises:
        KernelError: The archive cannot be read, or has no such source.
        ToolMissing: mmdebstrap is not installed.
    """
    hook = _HOOK.format(meta="linux-source", name="linux-source-", known=_quote(directory))
    _download(source, hook, directory, on_line)
    return next(directory.glob("*.deb"))


def _download(source: DebianKernel, script: str, directory: Path, on_line: Callable[[str], None]) -> None:
    """Run the hook with apt set up for the source, in the directory."""
    debian = DEBIAN_ARCHITECTURES[source.architecture]
    hook = directory / "hook"
    hook.write_text(f"#!/bin/sh\nset -eu\ncd {_quote(directory)}\n{script}")
    hook.chmod(0o700)
    argv = [
        process.find_tool("mmdebstrap"),
        "--mode=chrootless",
        "--variant=extract",
        "--format=null",
        f"--architectures={debian}",
        "--skip=check/qemu",
        f"--extract-hook={hook}",
        source.suite,
        "/dev/null",
        *source.sources,
    ]
    temporary = directory / "apt"
    temporary.mkdir()
    environment = process.clean_environment({"TMPDIR": str(temporary)}, network=True)
    environment.pop("APT_CONFIG", None)
    try:
        process.run(argv, env=environment, timeout=DOWNLOAD_SECONDS, on_line=on_line)
    except CommandFailed as error:
        raise KernelError(
            f"Debian's kernel for {source.architecture} could not be downloaded",
            hint="check the network, the proxy settings (http_proxy) and the mirror",
            details=error.details,
        ) from error


def unpack_package(package: Path, directory: Path) -> tuple[Path, Path]:
    """Unpack a kernel's package and index its modules.

    Args:
        package: The `.deb`.
        directory: A new directory for its files.

    Returns:
        The kernel's image, and its modules' directory (`lib/modules/<release>`).

    Raises:
        KernelError: The package holds something else.
        CommandFailed: It is damaged.
        ToolMissing: dpkg-deb or depmod is not installed.
    """
    depmod = process.find_tool("depmod", package="kmod")
    process.run([process.find_tool("dpkg-deb", package="dpkg"), "--extract", str(package), str(directory)])
    images = list(directory.glob("boot/vmlinuz-*"))
    modules = list(directory.glob("lib/modules/*"))
    if len(images) != 1 or [path.name for path in modules] != [images[0].name.removeprefix("vmlinuz-")]:
        raise KernelError(f"{package.name} does not hold one kernel and its modules")
    # The package leaves the index to its installation.
    process.run([depmod, "--basedir", str(directory), modules[0].name])
    return images[0], modules[0]


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
