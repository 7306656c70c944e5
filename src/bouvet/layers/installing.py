"""mmdebstrap's hook that installs all packages: `python -m bouvet.layers.installing SETTINGS TREE`.

apt chooses and downloads; dpkg unpacks and configures, in the tree; both as mmdebstrap itself has them do
it: the essential packages first, in one run, and then all others in the order that apt plans. What differs
is that packages are decompressed before, on all processors, while dpkg is at work: dpkg takes one after
the other, and would wait for each.

    TREE/var/cache/apt/archives/    what apt downloads, and has from earlier builds; a mount
    TREE/var/cache/apt/plain/       the same, decompressed (`plain_debs`); a mount, read-only

Between apt's check of the archives and dpkg's start, a hook of apt's puts links to the latter in place of
the former.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shlex
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bouvet import process
from bouvet.errors import BouvetError, LayerError
from bouvet.layers import mounts
from bouvet.layers.path_filter import PathFilter
from bouvet.layers.plain_debs import PlainDebs, data_member

_ARCHIVES = "var/cache/apt/archives"
_PLAIN = "var/cache/apt/plain"
_STATUS = "Status: install ok installed\n"
# apt's way to do nothing but choose and download: it prints what it would have dpkg do.
_CHOOSE = (
    "-oDebug::pkgDpkgPm=1", "-oDebug::NoLocking=1", "-oDir::Log=/dev/null", "-oDpkg::Use-Pty=0",
)  # fmt: skip
# Nothing of the tree is kept if the host fails.
_DPKG = ("env", "--unset=TMPDIR", "--unset=APT_CONFIG", "dpkg", "--force-unsafe-io")
# apt says on standard input what it installs, and takes it for a failure if nobody reads that.
_SWAP = f"cat >/dev/null && ln --symbolic --force /{_PLAIN}/*.deb /{_ARCHIVES}/"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the hook is told, in a JSON file.

    Attributes:
        suite: The release's code name.
        architecture: Debian's name of the architecture.
        packages: What to install beside the essential packages.
        exclude: dpkg `path-exclude` patterns.
        include: dpkg `path-include` patterns, applied after `exclude`.
        staged: The directory of packages of earlier builds, to which apt adds others.
        fetched: A directory on the same file system, to which what is installed is linked.
        kept: The directory where decompressed packages are kept, on the same file system too.
        scratch: An empty directory there.
    """

    suite: str
    architecture: str
    packages: list[str]
    exclude: list[str]
    include: list[str]
    staged: str
    fetched: str
    kept: str
    scratch: str

    def write(self, path: Path) -> None:
        """Write them for the process to read."""
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_bytes()))


def main(settings: Settings, tree: Path) -> None:
    """Install everything."""
    plain = Path(settings.scratch, "plain")
    plain.mkdir()
    with (
        _mounted(settings.staged, tree / _ARCHIVES, 0),
        _mounted(str(plain), tree / _PLAIN, mounts.READ_ONLY),
        ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool,
    ):
        try:
            _Installation(settings, tree, plain, pool).run()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Installation:
    def __init__(self, settings: Settings, tree: Path, plain: Path, pool: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._tree = tree
        self._plain = plain
        self._pool = pool
        self._kept = PlainDebs(Path(settings.kept))
        self._scratch = Path(settings.scratch)
        self._environment = _environment(tree)

    def run(self) -> None:
        """Choose, download, unpack and configure."""
        settings = self._settings
        suite, architecture = settings.suite, settings.architecture
        origin = f"?or(?archive(^{suite}$),?codename(^{suite}$))"
        essential = self._choose([f"?narrow({origin},?architecture({architecture}),?essential)"])
        if not essential:
            raise LayerError(f"the mirror has no essential packages for {architecture}")
        decompressed = self._decompress(essential)
        # apt needs not the tree for it, but a list of what is going to be there.
        others = self._pool.submit(self._prepare_others, essential)
        _finish(decompressed)
        self._extract(essential)
        with contextlib.ExitStack() as mounted:
            _mount_kernels(self._tree, mounted)
            self._install_essential(essential)
            _finish(others.result())
            if settings.packages:
                self._install()
        # What stands for device nodes is removed from it where an ordinary user builds; root's nodes stay.
        if (self._tree / "dev").is_dir():
            os.utime(self._tree / "dev", follow_symlinks=False)

    def _prepare_others(self, essential: Sequence[str]) -> list[Future[None]]:
        """Choose and download all other packages, and begin to decompress them."""
        packages = self._settings.packages
        others = self._choose(packages, essential) if packages else []
        _say(f"I: {len(essential) + len(others)} packages to install")
        return self._decompress([deb for deb in others if deb not in essential])

    def _install_essential(self, essential: Sequence[str]) -> None:
        """Have the tree's dpkg install the essential packages, which are all there by now."""
        debs = [f"/{_PLAIN}/{deb}" for deb in essential]
        self._run(["chroot", str(self._tree), *_DPKG, "--install", "--force-depends", *debs])

    def _choose(self, packages: Sequence[str], present: Sequence[str] = ()) -> list[str]:
        """Have apt download what it would install, where some packages are; return the files' names."""
        chosen, status = self._scratch / "chosen", self._scratch / "status"
        chosen.write_bytes(b"")
        status.write_bytes(b"".join(map(self._installed, present)))
        options = [
            f"-oDPkg::Pre-Install-Pkgs::=cat >{shlex.quote(str(chosen))}",
            f"-oDir::State::status={status}",
            f"-oDir::State::extended_states={self._scratch / 'extended_states'}",
        ]
        self._run(["apt-get", "--yes", *_CHOOSE, *options, "install", *packages])
        names = [Path(line).name for line in chosen.read_text().splitlines()]
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.link(Path(self._settings.staged, name), Path(self._settings.fetched, name))
        return names

    def _installed(self, name: str) -> bytes:
        """Return what dpkg's database has of a package that is installed."""
        argv = ["dpkg-deb", "--field", f"{self._settings.staged}/{name}"]
        return process.run(argv).stdout + _STATUS.encode() + b"\n"

    def _decompress(self, names: Sequence[str]) -> list[Future[None]]:
        staged = Path(self._settings.staged)
        return [self._pool.submit(self._kept.link, staged / name, self._plain / name) for name in names]

    def _extract(self, names: Sequence[str]) -> None:
        """Put the essential packages' files into the tree: dpkg cannot run without them."""
        keeps = PathFilter(self._settings.exclude, self._settings.include)
        excluded = self._scratch / "excluded"
        for name in names:
            with (self._plain / name).open("rb", buffering=0) as file:
                start = data_member(file).offset
                file.seek(start)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    left_out = [member.name for member in tar if not keeps(member)]
                excluded.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in left_out))
                file.seek(start)
                argv = ["tar", "--directory", str(self._tree), "--anchored", "--no-wildcards"]
                argv += [f"--exclude-from={excluded}", "--keep-directory-symlink", "--extract", "--file=-"]
                with process.start(argv, env=self._environment, stdin=file, stdout=2, stderr=2) as child:
                    if child.wait():
                        raise LayerError(f"{name} could not be extracted")

    def _install(self) -> None:
        """Have apt install the packages with the tree's dpkg."""
        program, *options = _DPKG
        argv = ["apt-get", "--yes", "-oDpkg::Use-Pty=0", f"-oDir::Bin::dpkg={program}"]
        argv += [f"-oDPkg::Options::={option}" for option in options]
        argv += [f"-oDPkg::Chroot-Directory={self._tree}", f"-oDPkg::Pre-Install-Pkgs::={_SWAP}"]
        self._run([*argv, "install", *self._settings.packages])

    def _run(self, argv: Sequence[str]) -> None:
        with process.start(argv, env=self._environment, stdout=2, stderr=2) as child:
            if status := child.wait():
                raise LayerError(f"{argv[0]} ended with status {status}")


def _finish(futures: Sequence[Future[None]]) -> None:
    for future in concurrent.futures.as_completed(futures):
        future.result()


def _environment(tree: Path) -> Mapping[str, str]:
    """Return what apt and the packages' scripts see: mmdebstrap's environment, and its settings of apt."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["APT_CONFIG"] = environment.pop("MMDEBSTRAP_APT_CONFIG")
    # Where apt puts what its dpkg, in the tree, shall find.
    environment["TMPDIR"] = str(tree / "tmp")
    return environment


@contextlib.contextmanager
def _mounted(source: str, target: Path, flags: int) -> Iterator[None]:
    target.mkdir(parents=True, exist_ok=True)
    mounts.bind(source, str(target), flags=flags)
    try:
        yield
    finally:
        mounts.unmount(str(target))


def _mount_kernels(tree: Path, mounted: contextlib.ExitStack) -> None:
    """Mount the kernel's file systems that packages' scripts look at, where the tree has a place for them."""
    for kind, name in (("proc", "proc"), ("sysfs", "sys")):
        place = tree / name
        if place.is_symlink() or not place.is_dir():
            continue
        try:
            mounts.mount(kind, str(place), flags=mounts.READ_ONLY)
        except PermissionError:
            # Not in a user namespace that has the host's network: the host's own, as far as the user may.
            mounts.bind(f"/{name}", str(place), flags=mounts.READ_ONLY)
        mounted.callback(mounts.unmount, str(place))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main(Settings.read(Path(sys.argv[1])), Path(sys.argv[2]))
    except BouvetError as error:
        sys.exit(f"E: {error.message}")
