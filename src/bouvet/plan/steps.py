"""The steps that make an image: what each takes in, its digest, and why it runs.

Everything here is plain data: planning reads no file and starts no program, so `bouvet plan` costs
nothing and a plan can be compared, printed and tested.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bouvet.plan.inputs import (
    AptInputs,
    CargoInputs,
    FilesInputs,
    LocaleInputs,
    NpmInputs,
    PipInputs,
    RunInputs,
    UsersInputs,
)
from bouvet.plan.oci_steps import ContainerInputs, OciInputs
from bouvet.plan.provenance import Locked


@dataclass(frozen=True, slots=True)
class ArchiveInputs:
    """An archive beside Debian's own, from which a few packages come.

    Attributes:
        name: The name of its files in `/etc/apt`, without ending.
        url: Its address.
        suite: Its suite.
        component: The suite's component.
        key: The public key that signs it: a URL, or the digest of its content.
        fingerprint: That key's fingerprint, in hexadecimal.
        packages: Names of the packages that come from it, sorted.
    """

    name: str
    url: str
    suite: str
    component: str
    key: str
    fingerprint: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DebianInputs:
    """A Debian tree made by mmdebstrap.

    Attributes:
        architecture: `x86_64` or `aarch64`.
        suite: The release's code name, for example `bookworm`.
        mirror: A mirror's URL, or None for mmdebstrap's own default.
        packages: Packages to install beside the essential ones, sorted: names, or `NAME=VERSION`.
        exclude: dpkg `path-exclude` patterns, in order.
        include: dpkg `path-include` patterns, applied after `exclude`.
        archives: Archives beside Debian's own.
        snapshot: Where locked packages are had that the mirror has no longer, in the forms of `mirror`.
        locked: What a lock says.
    """

    kind: ClassVar[str] = "debian"
    architecture: str
    suite: str
    mirror: str | None
    packages: tuple[str, ...]
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    archives: tuple[ArchiveInputs, ...] = ()
    snapshot: str | None = field(default=None, metadata={"digested": False})
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class NodeInputs:
    """Node.js and npm from the npm registry: the newest releases that match the version prefixes."""

    kind: ClassVar[str] = "node"
    architecture: str
    version: str
    npm: str
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class NodeArchiveInputs:
    """Node.js, with the npm that comes with it, from an archive of nodejs.org.

    Attributes:
        architecture: `x86_64` or `aarch64`.
        version: A version or the beginning of one: the newest release that matches.
        server: The URL of a `dist` directory, or None for that of nodejs.org.
        locked: What a lock says.
    """

    kind: ClassVar[str] = "nodejs_org"
    architecture: str
    version: str
    server: str | None
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class RustInputs:
    """The places where Rust's tools are looked for, over Debian's toolchain."""

    kind: ClassVar[str] = "rust"
    architecture: str


@dataclass(frozen=True, slots=True)
class RustupInputs:
    """rustup and one of its toolchains, from a distribution server.

    Attributes:
        architecture: `x86_64` or `aarch64`.
        channel: `stable`, `beta`, `nightly`, each with an optional day, or a version.
        components: Components beside those of the profile `minimal`, sorted.
        server: The distribution server's URL, or None for the official one.
        locked: What a lock says.
    """

    kind: ClassVar[str] = "rustup"
    architecture: str
    channel: str
    components: tuple[str, ...]
    server: str | None
    locked: Locked | None = None


@dataclass(frozen=True, slots=True)
class SystemInputs:
    """The configuration files and units that make a Debian tree a bouvet guest.

    Attributes:
        hostname: The guest's host name.
        root_password: In clear text, or None to lock the account.
        environment: Variables of login shells, services and the agent's children.
        path: Directories of PATH, in order.
        network: Whether `eth0` is configured by DHCP.
        agent: Whether the guest agent's unit is enabled.
        agent_first: Whether the agent is what a kernel starts, and goes on as the init.
        timezone: The local time's zone, None for UTC.
        enable: Units to enable.
        disable: Units to disable.
    """

    kind: ClassVar[str] = "system"
    hostname: str
    root_password: str | None
    environment: tuple[tuple[str, str], ...]
    path: tuple[str, ...]
    network: bool
    agent: bool
    agent_first: bool = False
    timezone: str | None = None
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentInputs:
    """The guest agent's binary.

    Attributes:
        architecture: `x86_64` or `aarch64`.
        digest: SHA-256 of the binary, in hexadecimal.
    """

    kind: ClassVar[str] = "agent"
    architecture: str
    digest: str


Inputs = (
    DebianInputs
    | OciInputs
    | AptInputs
    | NodeInputs
    | NodeArchiveInputs
    | RustInputs
    | RustupInputs
    | LocaleInputs
    | UsersInputs
    | PipInputs
    | NpmInputs
    | CargoInputs
    | FilesInputs
    | RunInputs
    | SystemInputs
    | ContainerInputs
    | AgentInputs
)


@dataclass(frozen=True, slots=True)
class Step:
    """One layer to make.

    Attributes:
        name: What it is called in progress, logs and the cache's listing.
        inputs: What its maker gets.
        after: Names of the steps whose layers it reads; they lie below it.
        code: A digest of the code that makes it.
        digest: SHA-256 over the inputs, the maker's code and the digests of `after`, in hexadecimal.
    """

    name: str
    inputs: Inputs
    after: tuple[str, ...]
    code: str
    digest: str


def make_step(name: str, inputs: Inputs, *, code: str, after: Sequence[Step] = ()) -> Step:
    """Return the step with its digest.

    Args:
        name: The step's name, unique in its plan.
        inputs: What its maker gets.
        code: A digest of the code that makes it, so that a changed maker makes a new layer.
        after: The steps whose layers it reads.
    """
    # Where a step finds its inputs is none of them.
    places = {field.name for field in dataclasses.fields(inputs) if not field.metadata.get("digested", True)}
    values = {name: value for name, value in dataclasses.asdict(inputs).items() if name not in places}
    digest = digest_of(
        {
            "kind": inputs.kind,
            "inputs": values,
            "code": code,
            "after": [step.digest for step in after],
        }
    )
    return Step(name, inputs, tuple(step.name for step in after), code, digest)


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of a JSON value in its canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
