"""What a layer was made from, and what a locked step has to be made from."""

from __future__ import annotations

from dataclasses import dataclass

SHA256 = "sha256:"
"""How a digest in hexadecimal begins."""


@dataclass(frozen=True, slots=True, order=True)
class Artifact:
    """A file that was installed: a package, an archive, a manifest, a layer of a container image.

    Attributes:
        name: Its name, for its package manager.
        version: Its version; for a channel of Rust's, its day; empty for what has a digest alone.
        architecture: What it runs on, as its package manager says it; empty where that says nothing.
        digest: `sha256:` and 64 hexadecimal digits; for npm's packages the registry's `sha512-` and base64
            (W3C, Subresource Integrity).
        path: Where it is: relative to an archive of Debian packages, otherwise a URL; empty for a registry
            that finds it by name and version.
    """

    name: str
    version: str = ""
    architecture: str = ""
    digest: str = ""
    path: str = ""

    @property
    def sha256(self) -> str:
        """The SHA-256 in hexadecimal, empty where the digest is another."""
        return self.digest.removeprefix(SHA256) if self.digest.startswith(SHA256) else ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.version, self.architecture) if part)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a layer was made from; nothing of the host, and no time.

    Attributes:
        artifacts: What was installed, sorted.
        sources: Where it came from: lines of apt's one-line format, URLs of servers.
        tools: Names and versions of the host's programs that installed it.
    """

    artifacts: tuple[Artifact, ...] = ()
    sources: tuple[str, ...] = ()
    tools: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Locked:
    """What a lock says of a step.

    Attributes:
        artifacts: What has to be installed, sorted.
        sources: What the tree's own list of archives says, and where the artifacts may be had.
        complete: Whether nothing else may be installed. Otherwise what is not listed is chosen anew.
    """

    artifacts: tuple[Artifact, ...]
    sources: tuple[str, ...] = ()
    complete: bool = True
