"""Kernels by name, in a cache of their own.

    KERNELS/
      lock                       held while something is added
      debian-SUITE-ARCHITECTURE  the digest that `debian` last meant, a text file
      DIGEST/                    SHA-256 of the package, or of the image where there is no package
        kernel.json              what is known about it
        image                    what a virtual machine monitor loads
        boot-modules/*.ko        what the initial file system loads
        modules.ext4             all modules, with their index, as a disk for guests

An entry appears complete, by a rename, and never changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bouvet.download import download
from bouvet.errors import CacheError, KernelError
from bouvet.events import Listener, ToolOutput, ignore
from bouvet.vm.debian_kernel import DEBIAN_ARCHITECTURES, DebianKernel, download_image, unpack_package
from bouvet.vm.kernel_image import MAX_IMAGE, read_image_facts, unpack_kernel
from bouvet.vm.modules import boot_order, write_modules_disk

_DIGEST = re.compile(r"[0-9a-f]{64}")
_STEP = "kernel"


@dataclass(frozen=True, slots=True)
class FileKernel:
    """A kernel in a file, everything it needs built in.

    Attributes:
        path: The image.
        sha256: Its expected digest in hexadecimal, or None to take it as it is.
    """

    path: Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class UrlKernel:
    """A kernel to download, everything it needs built in.

    Attributes:
        url: An `http` or `https` URL.
        sha256: The image's digest in hexadecimal.
    """

    url: str
    sha256: str


KernelSource = DebianKernel | FileKernel | UrlKernel


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache.

    Attributes:
        name: Where it came from: `debian`, `file:PATH` or `url:URL`.
        digest: SHA-256 of the package or, without one, of the image, in hexadecimal.
        kind: `bzImage`, `vmlinux` or `Image`.
        architecture: `x86_64` or `aarch64`.
        release: As `uname -r` prints it.
        image: The file that is booted.
        boot_modules: Modules that the boot needs, in the order of loading; none if all is built in.
        modules_disk: An ext4 image of `lib/modules/<release>`, or None if the kernel has no modules.
    """

    name: str
    digest: str
    kind: str
    architecture: str
    release: str
    image: Path
    boot_modules: tuple[Path, ...]
    modules_disk: Path | None


def parse_kernel(text: str, architecture: str) -> KernelSource:
    """Return the source that a user's words mean.

    Args:
        text: `debian`, `file:PATH` or `url:URL`; each may end in `#sha256=DIGEST`, of Debian's package or
            of the file, and the last has to.
        architecture: The architecture of `debian`.

    Raises:
        KernelError: They mean nothing.
    """
    if architecture not in DEBIAN_ARCHITECTURES:
        raise KernelError(f"{architecture!r} is not one of {', '.join(DEBIAN_ARCHITECTURES)}")
    if text == "debian":
        return DebianKernel(architecture)
    kind, _, place = text.partition(":")
    marked, digest = text.partition("#sha256=")[1:]
    place = place.partition("#sha256=")[0]
    if marked and not _DIGEST.fullmatch(digest.lower()):
        raise KernelError(f"{digest!r} is no SHA-256: 64 hexadecimal digits")
    if text == f"debian#sha256={digest}":
        return DebianKernel(architecture, sha256=digest.lower())
    if kind == "file" and place:
        return FileKernel(Path(place), digest.lower() or None)
    if kind == "url" and place and digest:
        return UrlKernel(place, digest.lower())
    raise KernelError(
        f"{text!r} is no kernel", hint="debian, file:PATH[#sha256=DIGEST] or url:URL#sha256=DIGEST"
    )


class KernelCache:
    """The kernels on this host.

    Args:
        directory: Its place; it is made when something is added.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def list(self) -> list[Kernel]:
        """Return all cached kernels, by release and digest."""
        entries = (path for path in self._directory.glob("*") if _DIGEST.fullmatch(path.name))
        kernels = [kernel for path in entries if (kernel := self._read(path.name)) is not None]
        return sorted(kernels, key=lambda kernel: (kernel.release, kernel.digest))

    def find(self, source: KernelSource) -> Kernel | None:
        """Return the kernel if it is cached; for `debian`, the one that was fetched last.

        Raises:
            KernelError: The source is a file that cannot be read.
        """
        if isinstance(source, DebianKernel) and source.sha256 is None:
            try:
                digest = self._pointer(source).read_text().strip()
            except FileNotFoundError:
                return None
            return self._read(digest) if _DIGEST.fullmatch(digest) else None
        if isinstance(source, FileKernel):
            return self._read(source.sha256 or _file_digest(source.path))
        assert source.sha256 is not None
        return self._read(source.sha256)

    def get(self, source: KernelSource, *, listener: Listener = ignore) -> Kernel:
        """Return the kernel, fetched only if it is not cached.

        Raises:
            KernelError: It cannot be fetched, or is not what it should be.
            CacheError: The cache cannot be written.
        """
        return self.find(source) or self.fetch(source, listener=listener)

    def extract(self, source: KernelSource, output: Path, *, listener: Listener = ignore) -> Kernel:
        """Write a kernel as monitors without a loader of their own start it, Firecracker for one.

        Args:
            source: The kernel; it is fetched if it is not cached.
            output: The file: an ELF `vmlinux` for x86_64, an `Image` for aarch64.
            listener: Told about progress.

        Raises:
            KernelError: It cannot be fetched, or cannot be had unpacked.
            CacheError: The cache or the file cannot be written.
        """
        kernel = self.get(source, listener=listener)
        if kernel.kind == "bzImage":
            raise KernelError(
                f"{kernel.name} cannot be unpacked",
                hint="it has to be packed with LZ4, gzip or xz, and have an entry for PVH (CONFIG_PVH)",
            )
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kernel.image, output)
        except OSError as error:
            raise CacheError(f"cannot write {output}: {error.strerror}") from error
        return kernel

    def fetch(self, source: KernelSource, *, listener: Listener = ignore) -> Kernel:
        """Fetch the kernel: for `debian`, the one that is newest now.

        Raises:
            KernelError: It cannot be fetched, or is not what it should be.
            CacheError: The cache cannot be written.
        """
        try:
            with self._adding() as scratch:
                if isinstance(source, DebianKernel):
                    return self._add_debian(source, scratch, lambda line: listener(ToolOutput(_STEP, line)))
                return self._add_image(source, scratch)
        except OSError as error:
            raise CacheError(
                f"a kernel cannot be added to {self._directory}: {error.strerror}",
                hint="the directory has to be writable, and needs about 300 MB for a kernel",
            ) from error

    def _add_debian(self, source: DebianKernel, scratch: Path, on_line: Callable[[str], None]) -> Kernel:
        digest, package = download_image(source, scratch, self._directory, on_line)
        if source.sha256 not in (None, digest):
            raise KernelError(
                "Debian's archive has another kernel than the one that was asked for",
                hint="a lock names it: lock a newer one with 'bouvet lock --update kernel'",
                details=(f"expected SHA-256 {source.sha256}", f"found SHA-256    {digest}"),
            )
        kernel = self._read(digest)
        if kernel is None:
            if package is None or _file_digest(package) != digest:
                raise KernelError("apt did not deliver the package that its index names")
            image, modules = unpack_package(package, scratch / "package")
            kernel = self._commit("debian", digest, image, modules, scratch)
        pointer = scratch / "pointer"
        pointer.write_text(digest + "\n")
        pointer.replace(self._pointer(source))
        return kernel

    def _add_image(self, source: FileKernel | UrlKernel, scratch: Path) -> Kernel:
        image = scratch / "image"
        if isinstance(source, UrlKernel):
            name = f"url:{source.url}"
            download(source.url, image, sha256=source.sha256, limit=MAX_IMAGE)
        else:
            name = f"file:{source.path}"
            _copy_image(source.path, image)
        digest = _file_digest(image)
        if isinstance(source, FileKernel) and source.sha256 not in (None, digest):
            raise KernelError(
                f"{source.path} is not the kernel that was asked for",
                details=(f"expected SHA-256 {source.sha256}", f"found SHA-256    {digest}"),
            )
        return self._read(digest) or self._commit(name, digest, image, None, scratch)

    def _commit(self, name: str, digest: str, image: Path, modules: Path | None, scratch: Path) -> Kernel:
        entry = scratch / "entry"
        (entry / "boot-modules").mkdir(parents=True)
        content = image.read_bytes()
        read_image_facts(content)
        content = unpack_kernel(content) or content
        facts = read_image_facts(content)
        (entry / "image").write_bytes(content)
        order = boot_order(modules) if modules is not None else []
        if modules is not None:
            write_modules_disk(modules, entry / "modules.ext4")
        for path in order:
            path.rename(entry / "boot-modules" / path.name)
        stored = {
            "name": name,
            **dataclasses.asdict(facts),
            "boot_modules": [path.name for path in order],
            "has_modules": modules is not None,
        }
        (entry / "kernel.json").write_text(json.dumps(stored, indent=2) + "\n")
        for path in entry.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with contextlib.suppress(FileExistsError):
            entry.rename(self._directory / digest)
        kernel = self._read(digest)
        assert kernel is not None
        return kernel

    def _read(self, digest: str) -> Kernel | None:
        entry = self._directory / digest
        try:
            stored = json.loads((entry / "kernel.json").read_bytes())
            return Kernel(
                name=stored["name"],
                digest=digest,
                kind=stored["kind"],
                architecture=stored["architecture"],
                release=stored["release"],
                image=entry / "image",
                boot_modules=tuple(entry / "boot-modules" / name for name in stored["boot_modules"]),
                modules_disk=entry / "modules.ext4" if stored["has_modules"] else None,
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{entry / 'kernel.json'} is not what was written", hint=f"remove {entry}"
            ) from error

    def _pointer(self, source: DebianKernel) -> Path:
        return self._directory / f"debian-{source.suite}-{source.architecture}"

    @contextlib.contextmanager
    def _adding(self) -> Iterator[Path]:
        """Lock the cache and yield an empty directory on its file system."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._directory.glob(".new-*"):  # of one that was killed
                shutil.rmtree(left)
            scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=self._directory))
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _copy_image(path: Path, target: Path) -> None:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_IMAGE:
                raise KernelError(f"{path} is larger than {MAX_IMAGE >> 20} MiB")
            target.write_bytes(file.read(MAX_IMAGE))
    except OSError as error:
        raise KernelError(f"the kernel {path} cannot be read: {error.strerror}") from error


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KernelError(f"the kernel {path} cannot be read: {error.strerror}") from error
