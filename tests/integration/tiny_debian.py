"""A Debian archive of a few tiny packages on the loopback interface, for mmdebstrap to install from.

The one essential package carries the host's own dpkg with the programs that dpkg runs, so a build takes
seconds and needs no network; everything that installs it is real.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# What dpkg and mmdebstrap run in the tree.
PROGRAMS = (
    "cat", "chown", "diff", "dpkg", "dpkg-deb", "dpkg-divert", "dpkg-query", "dpkg-split", "env", "false",
    "ldconfig", "ln",
    "mkdir", "mv", "rm", "sed", "sh", "sleep", "start-stop-daemon", "tar", "touch", "true",
)  # fmt: skip
PACKAGED = 1_600_000_000
"""The time, in seconds since 1970, of everything that a package brings."""


@dataclass
class Archive:
    """The archive's directory and address, and the paths that were asked for."""

    directory: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)

    @property
    def mirror(self) -> str:
        """The archive as a line of apt's sources."""
        return f"deb [trusted=yes] {self.url} ./"

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Path],
        *,
        version: str = "1.0",
        essential: bool = False,
        depends: str = "",
        postinst: str | None = None,
        control: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> None:
        """Build a package with dpkg-deb; a file is its content, or the host's file to copy.

        Args:
            name: The package's name.
            files: Its files.
            version: Its version.
            essential: Whether it is essential.
            depends: What it depends on.
            postinst: The commands that configure it.
            control: Further files of its control member.
            fields: Further lines of its description.
        """
        tree = self.directory / "trees" / name
        for path, content in files.items():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, target)
            else:
                target.write_bytes(content)
        directory = tree / "DEBIAN"
        directory.mkdir(parents=True)
        (directory / "control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture()}\nPriority: required\n"
            f"Maintainer: nobody <nobody@example.org>\nDescription: a test\n"
            + "Essential: yes\n" * essential
            + f"Depends: {depends}\n" * bool(depends)
            + fields
        )
        scripts = {} if postinst is None else {"postinst": "#!/bin/sh\nset -e\n" + postinst}
        for each, text in {**scripts, **(control or {})}.items():
            (directory / each).write_text(text)
            (directory / each).chmod(0o755 if text.startswith("#!") else 0o644)
        for place, names, file_names in os.walk(tree):
            for each in (*names, *file_names, "."):
                os.utime(Path(place, each), (PACKAGED, PACKAGED))
        package = self.directory / f"{name}_{version}_{architecture()}.deb"
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(package))
        shutil.rmtree(tree)

    def publish(self) -> None:
        """Write the index over all packages, and the release file over the index."""
        entries = []
        for package in sorted(self.directory.glob("*.deb")):
            fields = run("dpkg-deb", "--field", str(package))
            digest = hashlib.sha256(package.read_bytes()).hexdigest()
            place = f"Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
            entries.append(fields + place)
        index = "\n".join(entries).encode()
        (self.directory / "Packages").write_bytes(index)
        (self.directory / "Release").write_text(
            "Suite: stable\nCodename: bookworm\nComponents: main\n"
            f"Architectures: {architecture()}\nDate: Sat, 01 Jan 2022 00:00:00 UTC\n"
            f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
        )


def run(*argv: str) -> str:
    """Run a program and return what it prints."""
    # The same package is the same bytes whenever it is built.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(PACKAGED)}
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


@functools.cache
def architecture() -> str:
    """Return Debian's name of the host's architecture."""
    return run("dpkg", "--print-architecture").strip()


def essential_files() -> dict[str, bytes | Path]:
    """Return what a tree needs so that dpkg runs in it: programs, their libraries, accounts."""
    files: dict[str, bytes | Path] = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/shadow": b"root:*:19000:0:99999:7:::\n",
        "etc/machine-id": b"0123456789abcdef0123456789abcdef\n",
        "usr/share/doc/tiny-base/copyright": b"public domain\n",
        "usr/share/doc/tiny-base/changelog": b"long\n",
    }
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    for name in PROGRAMS:
        program = shutil.which(name, path=path)
        assert program is not None, f"the host has no {name}"
        directory = "usr/sbin" if "/sbin/" in program else "usr/bin"
        files[f"{directory}/{name}"] = Path(program).resolve()
        for library in libraries(program):
            files["usr" + library if not library.startswith("/usr") else library[1:]] = Path(
                library
            ).resolve()
    return files


def libraries(program: str) -> list[str]:
    """Return the shared libraries of a program, the loader too, by the names it knows them by."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=60, check=False)
    words = [word for line in done.stdout.splitlines() for word in line.split()]
    return [word for word in words if word.startswith("/")]


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Archive]:
    """Serve an archive from an existing directory until the block ends; it has its essential package."""
    archive = Archive(directory)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            archive.requests.append(self.path)

    handler = functools.partial(Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        archive.url = f"http://127.0.0.1:{server.server_port}"
        archive.add("tiny-base", essential_files(), essential=True, postinst="echo made > /etc/made\n")
        archive.publish()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()
