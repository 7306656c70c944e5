"""What a container of an image would run, as the guest has it: read from images that may be hostile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bouvet.errors import FormatError

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree

SERVICE = b"etc/bouvet/service.json"
"""Where it is in an image."""

_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class GuestService:
    """What runs in the guest beside the agent.

    Attributes:
        arguments: The program and its arguments; empty for nothing.
        environment: `NAME=value` each.
        user: A name or number, with or without `:group`; empty for root.
        directory: Where it starts.
    """

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    user: str
    directory: str


def read_service(tree: FileTree) -> GuestService | None:
    """Return what an image's tree says, None where it says nothing.

    Raises:
        FormatError: It is damaged.
    """
    inode = tree.get(SERVICE)
    if inode is None:
        return None
    if not inode.is_regular or inode.size > _LIMIT:
        raise FormatError(f"/{SERVICE.decode()} is no file of at most {_LIMIT} bytes")
    try:
        document = json.loads(inode.content())
        return GuestService(
            _texts(document["arguments"]),
            _texts(document["environment"]),
            str(document["user"]),
            str(document["directory"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"/{SERVICE.decode()} is damaged") from error


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    return tuple(values)
