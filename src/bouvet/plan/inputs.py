"""What the steps take in that lay the user's own things over a tree.

Content of the host's files is named by digests: the makers get the bytes from their workshop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bouvet.plan.provenance import Locked

Variables = tuple[tuple[str, str], ...]
"""Environment variables, in order."""


@dataclass(frozen=True, slots=True)
class AptSourceInputs:
    """An archive of Debian packages.

    Attributes:
        name: The name of its file, without ending.
        uris: Its addresses.
        suites: Its suites.
        components: Their components.
        architectures: Debian's names, empty for the image's own.
        key: SHA-256 of the public key, in hexadecimal; None for an archive that is trusted without.
    """

    name: str
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    key: str | None


@dataclass(frozen=True, slots=True)
class AptInputs:
    """Packages added and removed by the tree's own apt.

    Attributes:
        architecture: `x86_64` or `aarch64`.
        add: Names of packages to install, sorted.
        remove: Names of packages to purge, sorted.
        sources: Further archives.
        snapshot: Where locked packages are had that the archives have no longer, as of `DebianInputs`.
        locked: What a lock says.
    """

    kind: ClassVar[str] = "apt"
    architecture: str
    add: tuple[str, ...]
    remove: tuple[str, ...]
    sources: tuple[AptSourceInputs, ...]
    snapshot: str | None = field(default=None, metadata={"digested": False})
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class PipInputs:
    """Python packages in the system's Python: requirements, sorted."""

    kind: ClassVar[str] = "pip"
    architecture: str
    packages: tuple[str, ...]
    environment: Variables
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class NpmInputs:
    """Node.js packages below /usr/local, sorted."""

    kind: ClassVar[str] = "npm"
    architecture: str
    packages: tuple[str, ...]
    environment: Variables
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class CargoInputs:
    """Rust programs in /usr/local/cargo/bin, sorted."""

    kind: ClassVar[str] = "cargo"
    architecture: str
    packages: tuple[str, ...]
    environment: Variables
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class FileInputs:
    """A file or directory of the user's.

    Attributes:
        path: Where it goes, absolute.
        content: Digest of what is put there (`bouvet.layers.host_files`); None for an empty directory.
        mode: Permission bits; None for those of the kind of file.
        owner: Name or number of the owner.
        group: Name or number of the group, None for the owner's own.
    """

    path: str
    content: str | None
    mode: int | None
    owner: str
    group: str | None


@dataclass(frozen=True, slots=True)
class FilesInputs:
    """Files of the user's, in the order of the spec."""

    kind: ClassVar[str] = "files"
    files: tuple[FileInputs, ...]


@dataclass(frozen=True, slots=True)
class UserInputs:
    """An account.

    Attributes:
        name: Its name, and its group's.
        uid: Its number, and its group's; None for the first that is free.
        shell: Its login shell.
        groups: Further groups.
        password: In clear text, None for none that opens it.
        home: Its home.
    """

    name: str
    uid: int | None
    shell: str
    groups: tuple[str, ...]
    password: str | None
    home: str


@dataclass(frozen=True, slots=True)
class UsersInputs:
    """Accounts, in the order of the spec."""

    kind: ClassVar[str] = "users"
    users: tuple[UserInputs, ...]


@dataclass(frozen=True, slots=True)
class LocaleInputs:
    """A locale that has to be compiled, for example `nb_NO.UTF-8`."""

    kind: ClassVar[str] = "locale"
    locale: str


@dataclass(frozen=True, slots=True)
class RunInputs:
    """A script that runs in the tree.

    Attributes:
        script: Run by `sh -e`.
        user: The account that runs it.
        network: Whether it has the host's network.
        caches: Directories of the tree, absolute, that are kept between builds.
        environment: Its variables, PATH first.
        cwd: The directory it starts in.
    """

    kind: ClassVar[str] = "run"
    script: str
    user: str
    network: bool
    caches: tuple[str, ...]
    environment: Variables
    cwd: str
