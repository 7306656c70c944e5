"""The steps of an image that starts with a container image, instead of Debian."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class OciInputs:
    """A layer of a container image.

    Attributes:
        diff_id: The digest of its content. Where the blob lies and how it is compressed makes no other layer.
        digest: The blob's digest, None where nothing tells it.
        path: The file that has the blob.
        offset: Where the blob starts in there, in bytes.
        size: Its length in bytes.
    """

    kind: ClassVar[str] = "oci"
    diff_id: str
    digest: str | None = field(metadata={"digested": False})
    path: str = field(metadata={"digested": False})
    offset: int = field(metadata={"digested": False})
    size: int = field(metadata={"digested": False})


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """What makes a container image's tree a guest: its configuration, and an init where it has none.

    Attributes:
        hostname: The guest's host name.
        root_password: In clear text, or None to lock the account.
        environment: Variables of the service, login shells and the agent's children, PATH among them.
        network: Whether the first network card is configured by DHCP.
        agent: Whether there is the guest agent.
        arguments: The service's program and its arguments; empty for none.
        user: Whom it runs as: a name or number, with or without `:group`; empty for root.
        directory: Where it starts.
    """

    kind: ClassVar[str] = "container"
    hostname: str
    root_password: str | None
    environment: tuple[tuple[str, str], ...]
    network: bool
    agent: bool
    arguments: tuple[str, ...]
    user: str
    directory: str
