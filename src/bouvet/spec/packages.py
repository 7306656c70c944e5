"""Packages that are added to the tree, each by the package manager of its kind."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from bouvet.spec.values import Lines, PackageName, Table, matching

ARMORED_KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
"""How a public key as text begins (RFC 9580, section 6.2)."""

# apt ignores files whose names have other characters (sources.list(5)).
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_URI = re.compile(r"(https?|file|ftp|mirror|mirror\+https?):\S+")
_WORD = re.compile(r"[^\s\[\]#]+")
# The names and version specifiers of Python's dependency specifiers (PEP 508): no URLs, no options.
_PIP = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\s*\[[A-Za-z0-9._,\s-]*\])?"
    r"(\s*(===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+(\s*,\s*(===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+)*)?"
)
_NPM = re.compile(r"(@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*(@[0-9A-Za-z^~<>=|.* +-]+)?")
_CARGO = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(@[0-9A-Za-z^~<>=.*+-]+)?")


class AptSource(Table):
    """An apt archive beside Debian's own; it stays configured in the guest."""

    name: Annotated[str, matching(_SOURCE_NAME, "file name for apt (letters, digits, '_', '-', '.')")] = (
        Field(description="The name of its file in /etc/apt/sources.list.d.")
    )
    uris: tuple[Annotated[str, matching(_URI, "URL of an archive")], ...] = Field(
        description="The archive's addresses.", min_length=1, strict=False
    )
    suites: tuple[Annotated[str, matching(_WORD, "suite")], ...] = Field(
        description="Suites, or a directory with a '/' at its end.", min_length=1, strict=False
    )
    components: tuple[Annotated[str, matching(_WORD, "component")], ...] = Field(
        (), description="Components, for example 'main'; none where the suite is a directory.", strict=False
    )
    key: Lines | None = Field(
        None, description="The key that signs it: a file's path (.asc or .gpg), or the armored text itself."
    )
    trusted: bool = Field(False, description="Whether it is used without a key: for archives of your own.")
    architectures: tuple[Annotated[str, matching(_WORD, "architecture")], ...] = Field(
        (), description="Debian's names of architectures; the image's if not set.", strict=False
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.key is None) != self.trusted:
            raise ValueError("needs its 'key', or else 'trusted = true' for an archive that is not signed")
        if not self.components and not all(suite.endswith("/") for suite in self.suites):
            raise ValueError("needs 'components', for example [\"main\"], unless every suite ends in '/'")
        return self


class Apt(Table):
    """Debian packages that are added to the tree below, or removed from it, by the tree's own apt."""

    add: tuple[PackageName, ...] = Field((), description="Packages to install.", strict=False)
    remove: tuple[PackageName, ...] = Field(
        (), description="Packages to purge, with what was installed for them alone.", strict=False
    )
    sources: tuple[AptSource, ...] = Field((), description="Further archives.", strict=False)


class Pip(Table):
    """Python packages in the system's Python."""

    packages: tuple[
        Annotated[str, matching(_PIP, "requirement, for example 'requests' or 'requests==2.32'")], ...
    ] = Field((), description="Names with version specifiers.", strict=False)


class Npm(Table):
    """Node.js packages, installed globally below /usr/local."""

    packages: tuple[
        Annotated[str, matching(_NPM, "package, for example 'typescript' or 'typescript@5'")], ...
    ] = Field((), description="Names, each with an optional '@' and range of versions.", strict=False)


class Cargo(Table):
    """Rust programs, compiled and installed to /usr/local/cargo/bin."""

    packages: tuple[
        Annotated[str, matching(_CARGO, "package, for example 'ripgrep' or 'ripgrep@14'")], ...
    ] = Field((), description="Names, each with an optional '@' and version.", strict=False)
