"""The spec: what an image shall hold. Each subject has its module; here they come together.

Every table is frozen and refuses keys that it does not know.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from bouvet.spec.checks import Test
from bouvet.spec.contradictions import contradictions
from bouvet.spec.debian import Debian
from bouvet.spec.files import File, Run
from bouvet.spec.kernel import Kernel
from bouvet.spec.packages import Apt, Cargo, Npm, Pip
from bouvet.spec.slim import Slim
from bouvet.spec.system import Services, System, User
from bouvet.spec.toolchains import Node, Rust
from bouvet.spec.values import OneLine, Size, Table, Text, VariableName, matching, parse_size

# containers-transports(5).
_FROM = re.compile(r"(oci|oci-archive|docker-archive):[^:\s]+(:[A-Za-z0-9_./@:-]+)?|docker://[^\s/][^\s]*")

Item = TypeVar("Item")
# TOML has no null: `false` takes away what a parent has.
Optionally = Annotated[Item | None, BeforeValidator(lambda value: None if value is False else value)]


class Spec(Table):
    """An image's spec."""

    from_: (
        Annotated[str, matching(_FROM, "image; write oci:, oci-archive:, docker-archive: or docker://")]
        | None
    ) = Field(
        None,
        alias="from",
        description="A container image to start with, instead of [debian]: 'oci:DIRECTORY[:TAG]', "
        "'oci-archive:FILE[:TAG]', 'docker-archive:FILE[:TAG]' or 'docker://REFERENCE'.",
    )
    label: OneLine = Field("bouvet-rootfs", description="The file system's label, at most 16 bytes.")
    free: Size = Field(
        parse_size("64M"), description="Free space beyond what the content needs, where 'size' is not set."
    )
    size: Size | None = Field(None, description="The image's final size; what the content needs if not set.")
    max_size: Size | None = Field(None, description="The size that the image must not exceed.")
    formats: tuple[Literal["ext4", "squashfs", "erofs", "tar", "qcow2"], ...] = Field(
        ("ext4",), description="What is written.", min_length=1, strict=False
    )
    agent: bool = Field(True, description="Whether the guest agent is installed and started.")
    agent_first: bool = Field(
        False,
        description="Whether the kernel starts the agent, before the init that it goes on as, whatever its "
        "command line says. 'bouvet run' and 'boot' do so anyway.",
    )
    variables: dict[VariableName, Text] = Field(
        default_factory=dict, description="Values for the templates among the files."
    )
    debian: Debian = Field(default_factory=Debian, description="The Debian tree.")
    slim: Slim = Field(default_factory=Slim, description="What is left out of its packages.")
    apt: Apt = Field(default_factory=Apt, description="Packages added to it or removed from it.")
    node: Optionally[Node] = Field(None, description="Node.js; none if not set, or false.")
    rust: Optionally[Rust] = Field(None, description="Rust; none if not set, or false.")
    pip: Pip = Field(default_factory=Pip, description="Python packages.")
    npm: Npm = Field(default_factory=Npm, description="Node.js packages.")
    cargo: Cargo = Field(default_factory=Cargo, description="Rust programs.")
    users: tuple[User, ...] = Field((), description="Accounts.", strict=False)
    files: tuple[File, ...] = Field((), description="Files of your own.", strict=False)
    run: tuple[Run, ...] = Field((), description="Scripts that run in the tree.", strict=False)
    services: Services = Field(default_factory=Services, description="Units that start, or do not.")
    system: System = Field(default_factory=System, description="The guest's configuration.")
    kernel: Kernel = Field(default_factory=Kernel, description="The kernel that boots the image.")
    test: Test = Field(default_factory=Test, description="What 'bouvet verify' runs in the guest.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := contradictions(self.model_dump(exclude_unset=True)):
            raise ValueError("; ".join(found))
        return self
