"""An image that starts with a container image, instead of Debian: the steps that are its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bouvet.plan.inputs import Variables
    from bouvet.plan.steps import SystemInputs
    from bouvet.spec import Spec


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
class Service:
    """What a container of an image runs.

    Attributes:
        entrypoint: The first words of its command line.
        command: The further ones; empty, with an empty `entrypoint`, for nothing to run.
        environment: Its variables.
        user: Whom it runs as: a name or number, with or without `:group`; empty for root.
        directory: Where it starts; empty for `/`.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Variables = ()
    user: str = ""
    directory: str = ""


@dataclass(frozen=True, slots=True)
class ContainerBase:
    """A container image that an image starts with.

    Attributes:
        digest: The digest that names it.
        layers: Its layers, lowest first.
        service: What a container of it runs.
    """

    digest: str
    layers: tuple[OciInputs, ...]
    service: Service


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """What makes a container image's tree a guest: its configuration, and an init where it has none.

    Attributes:
        system: The guest's configuration.
        service: What a container of the image would run.
    """

    kind: ClassVar[str] = "container"
    system: SystemInputs
    service: Service


def with_environment(spec: Spec, base: ContainerBase) -> Spec:
    """Return a spec with the container image's variables below its own; its own PATH counts if it has one.

    Variables that a line of text cannot hold are left to the service.
    """
    system = spec.system
    theirs = {name: value for name, value in base.service.environment if value.isprintable()}
    directories = tuple(part for part in theirs.pop("PATH", "").split(":") if part.startswith("/"))
    changes: dict[str, object] = {"environment": theirs | system.environment}
    if directories and "path" not in system.model_fields_set:
        changes["path"] = directories
    return spec.model_copy(update={"system": system.model_copy(update=changes)})
