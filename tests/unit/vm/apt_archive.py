"""An apt archive in a directory, with packages made for a test."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bouvet import process


class AptArchive:
    """An archive without a signature.

    Args:
        directory: Its directory, which is made.
        architecture: Debian's name of the packages' architecture.
    """

    def __init__(self, directory: Path, architecture: str = "amd64") -> None:
        self.directory = directory
        self._architecture = architecture
        self._index = directory / "dists" / "bookworm" / "main" / f"binary-{architecture}" / "Packages"
        self._index.parent.mkdir(parents=True)

    def source(self, *, trusted: bool = True) -> str:
        """Return apt's line for it."""
        return f"deb {'[trusted=yes] ' if trusted else ''}copy://{self.directory} bookworm main"

    def add(self, name: str, root: Path, depends: str = "") -> Path:
        """Build a package of the files in `root`, and list it; return its file."""
        control = (
            f"Package: {name}\nVersion: 1\nArchitecture: {self._architecture}\n"
            "Maintainer: none <none@localhost>\n"
        ) + (f"Depends: {depends}\n" if depends else "")
        (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (root / "DEBIAN" / "control").write_text(control + "Description: kernel\n")
        package = self.directory / f"{name}_1_{self._architecture}.deb"
        process.run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(package)], timeout=60)
        content = package.read_bytes()
        with self._index.open("a") as index:
            index.write(
                f"{control}Filename: {package.name}\nSize: {len(content)}\n"
                f"SHA256: {hashlib.sha256(content).hexdigest()}\nDescription: kernel\n\n"
            )
        self._write_release()
        return package

    def _write_release(self) -> None:
        content = self._index.read_bytes()
        path = self._index.relative_to(self.directory / "dists" / "bookworm")
        (self.directory / "dists" / "bookworm" / "Release").write_text(
            f"Suite: bookworm\nCodename: bookworm\nArchitectures: {self._architecture}\nComponents: main\n"
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
            f"SHA256:\n {hashlib.sha256(content).hexdigest()} {len(content)} {path}\n"
        )
