"""A Rust distribution server's tree: small, and in every format as the official one's.

URLs in the manifest begin with the official server's, as they do on every mirror.
"""

from __future__ import annotations

import functools
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bouvet.layers.rust_channel import OFFICIAL_SERVER

DATE = "2026-04-16"
PACKED = 1_776_000_000
"""The modification time, in seconds since 1970, of everything in the archives."""

X86_64, AARCH64 = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
VERSION = "1.95.0"
RUSTUP_VERSION = "1.29.1"

Files = Mapping[str, bytes]


@dataclass
class Package:
    """A package of the distribution.

    Attributes:
        files: Its component's files for a target; `{target}` in a path is replaced.
        directories: Those of them that the component's list names as `dir:` instead.
        any_target: Whether it is the same for all targets.
        archive_name: The beginning of its archive's name.
    """

    files: Files
    directories: tuple[str, ...] = ()
    any_target: bool = False
    archive_name: str = ""


@functools.cache
def program(name: str) -> bytes:
    """Return a small real program of the host's architecture that tells its name, as `NAME 1.95.0 (...)`."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "main.c")
        source.write_text(
            "#include <stdio.h>\n"
            f'int main(void) {{ puts("{name} {VERSION} (a {DATE})\\nhost: {X86_64}"); return 0; }}\n'
        )
        subprocess.run(["gcc", "-Os", "-s", "-o", "program", "main.c"], cwd=directory, check=True, timeout=60)
        return Path(directory, "program").read_bytes()


@functools.cache
def rustup_init() -> bytes:
    """Return the real rustup, of the host's architecture."""
    return Path(sys.executable).with_name("rustup-init").read_bytes()


def packages() -> dict[str, Package]:
    """Return the packages of a release, as small as they can be."""
    licence = b"licence\n"
    library = b"!<arch>\n"
    return {
        "rustc": Package(
            {
                "bin/rustc": program("rustc"),
                "bin/rustdoc": program("rustdoc"),
                "lib/librustc_driver.so": program("driver"),
                "share/doc/rust/README.md": b"long\n",
                "share/doc/rust/COPYRIGHT.html": b"long\n",
                "share/doc/rust/licenses/MIT.txt": licence,
                "share/man/man1/rustc.1": b"long\n",
            }
        ),
        "cargo": Package({"bin/cargo": program("cargo"), "share/doc/cargo/LICENSE-MIT": licence}),
        "rust-std": Package({"lib/rustlib/{target}/lib/libcore.rlib": library}),
        "rust-docs": Package(
            {"share/doc/rust/html/index.html": b"long\n"}, directories=("share/doc/rust/html",)
        ),
        "clippy-preview": Package(
            {"bin/cargo-clippy": program("clippy"), "bin/clippy-driver": program("clippy")},
            archive_name="clippy",
        ),
        "rustfmt-preview": Package(
            {"bin/rustfmt": program("rustfmt"), "bin/cargo-fmt": program("rustfmt")}, archive_name="rustfmt"
        ),
        "rust-src": Package(
            {"lib/rustlib/src/rust/library/core/lib.rs": b"//! core\n", "lib/rustlib/src/rust/x": b"x"},
            directories=("lib/rustlib/src/rust",),
            any_target=True,
        ),
    }


@dataclass
class Distribution:
    """The tree's files by path, without a slash at its begin."""

    files: dict[str, bytes] = field(default_factory=dict)

    def publish(
        self,
        channel: str = "stable",
        *,
        contents: Mapping[str, Package] | None = None,
        targets: tuple[str, ...] = (X86_64, AARCH64),
        rustup: Mapping[str, bytes] | None = None,
    ) -> None:
        """Add a channel, and rustup for each target."""
        contents = packages() if contents is None else contents
        tables = ['manifest-version = "2"', f'date = "{DATE}"', ""]
        for name, package in sorted(contents.items()):
            tables += [f"[pkg.{name}]", f'version = "{VERSION} (59807616e 2026-04-14)"', ""]
            for target in ("*",) if package.any_target else targets:
                tables += self._archives(name, package, target)
        tables += ["[pkg.rust]", f'version = "{VERSION} (59807616e 2026-04-14)"', ""]
        for target in targets:
            tables += [f"[pkg.rust.target.{target}]", "available = true"]
            tables += ['url = ""', f'hash = "{"0" * 64}"', ""]
            for name, package in sorted(contents.items()):
                extension = name == "rust-src"
                tables += [f"[[pkg.rust.target.{target}.{'extensions' if extension else 'components'}]]"]
                tables += [f'pkg = "{name}"', f'target = "{"*" if package.any_target else target}"']
                tables += [f"is_extension = {str(extension).lower()}", ""]
        for new in ("clippy-preview", "rustfmt-preview"):
            tables += [f"[renames.{new.removesuffix('-preview')}]", f'to = "{new}"', ""]
        tables += ["[profiles]", 'minimal = ["rustc", "cargo", "rust-std", "rust-mingw"]']
        tables += ['default = ["rustc", "cargo", "rust-std", "rust-docs"]', ""]
        self._add_with_digest(f"dist/channel-rust-{channel}.toml", "\n".join(tables).encode())
        self.files["rustup/release-stable.toml"] = (
            f'schema-version = "1"\nversion = "{RUSTUP_VERSION}"\n'.encode()
        )
        for target, content in (rustup or {X86_64: rustup_init()}).items():
            self._add_with_digest(f"rustup/archive/{RUSTUP_VERSION}/{target}/rustup-init", content)

    def _archives(self, name: str, package: Package, target: str) -> list[str]:
        """Add a package's archives for a target; return their table in the manifest."""
        suffix = "" if target == "*" else f"-{target}"
        key = '"*"' if target == "*" else target
        table = [f"[pkg.{name}.target.{key}]", "available = true"]
        for kind, prefix in (("gz", ""), ("xz", "xz_")):
            content = pack(name, package, target, VERSION, kind)
            path = f"dist/{DATE}/{package.archive_name or name}-{VERSION}{suffix}.tar.{kind}"
            self.files[path] = content
            table.append(f'{prefix}url = "{OFFICIAL_SERVER}/{path}"')
            table.append(f'{prefix}hash = "{hashlib.sha256(content).hexdigest()}"')
        return [*table, ""]

    def _add_with_digest(self, path: str, content: bytes) -> None:
        self.files[path] = content
        line = f"{hashlib.sha256(content).hexdigest()}  {Path(path).name}\n"
        self.files[f"{path}.sha256"] = line.encode()


def pack(name: str, package: Package, target: str, version: str, kind: str) -> bytes:
    """Return a component's archive as rust-installer makes it."""
    component = name if target == "*" else f"{name}-{target}"
    files = {path.replace("{target}", target): content for path, content in package.files.items()}
    lines = [f"file:{path}" for path in sorted(files) if not path.startswith(package.directories or "/")]
    lines += [f"dir:{path}" for path in package.directories]
    members = {
        "components": f"{component}\n".encode(),
        "rust-installer-version": b"3\n",
        "version": version.encode(),
        "install.sh": b"#!/bin/sh\n",
        f"{component}/manifest.in": ("\n".join(lines) + "\n").encode(),
        **{f"{component}/{path}": content for path, content in files.items()},
    }
    return tarball(members, f"{name}-{version}-{target}".removesuffix("-*"), kind)


def tarball(members: Files, top: str, kind: str) -> bytes:
    """Return an archive with one directory at its top, compressed with `gz` or `xz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}", **({"preset": 0} if kind == "xz" else {})) as archive:  # type: ignore[call-overload]
        for path, content in sorted(members.items(), key=lambda member: member[0][::-1]):
            info = tarfile.TarInfo(f"{top}/{path}")
            runnable = "bin/" in path or path.endswith((".sh", ".so"))
            info.size, info.mtime, info.mode = len(content), PACKED, 0o755 if runnable else 0o644
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
