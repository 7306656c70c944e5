"""Members of a JSON object that the guest has sent: each is read by its type, its range and its size."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, TypeVar

from bouvet.errors import AgentError

INTEGER_LIMIT = (1 << 63) - 1
"""The largest number that a member holds unless told otherwise."""

TEXT_LIMIT = 1 << 16
"""Characters that a text has at most unless told otherwise."""

Item = TypeVar("Item")


class Members:
    """An object's members.

    Args:
        value: What the guest has sent.
        subject: What it is said to be, for errors: a method or a notification.

    Raises:
        AgentError: It is no object.
    """

    def __init__(self, value: object, subject: str) -> None:
        if not isinstance(value, dict):
            raise AgentError(f"the agent's {subject} is not what the protocol says: no object")
        self._members: dict[str, Any] = value
        self._subject = subject

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) is not None

    def integer(self, name: str, low: int = 0, high: int = INTEGER_LIMIT) -> int:
        """Return a whole number in a range.

        Raises:
            AgentError: It is something else, or missing.
        """
        value = self._members.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name)
        return value

    def number(self, name: str, low: float = 0.0, high: float = float(INTEGER_LIMIT)) -> float:
        """Return a number in a range.

        Raises:
            AgentError: It is something else, or missing.
        """
        value = self._members.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(name)
        return float(value)

    def flag(self, name: str) -> bool:
        """Return true or false.

        Raises:
            AgentError: It is something else, or missing.
        """
        value = self._members.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name)
        return value

    def text(self, name: str, limit: int = TEXT_LIMIT) -> str:
        """Return a text of at most `limit` characters.

        Raises:
            AgentError: It is something else, or missing.
        """
        value = self._members.get(name)
        if not isinstance(value, str) or len(value) > limit:
            raise self.wrong(name)
        return value

    def optional_text(self, name: str, limit: int = TEXT_LIMIT) -> str | None:
        """Return a text of at most `limit` characters; None if it is null or missing.

        Raises:
            AgentError: It is something else.
        """
        return self.text(name, limit) if name in self else None

    def content(self, name: str, limit: int) -> bytes:
        """Return the bytes of a member in base64 (RFC 4648, section 4).

        Args:
            name: The member.
            limit: The most bytes that it may be.

        Raises:
            AgentError: It is something else, or the object's `encoding` is another.
        """
        if self._members.get("encoding", "base64") != "base64":
            raise self.wrong("encoding")
        value = self.text(name, (limit + 2) // 3 * 4)
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.wrong(name) from error
        if len(content) > limit:
            raise self.wrong(name)
        return content

    def record(self, name: str) -> Members:
        """Return an object's members.

        Raises:
            AgentError: It is something else, or missing.
        """
        return Members(self._members.get(name), f"{self._subject} ({name})")

    def items(self, name: str, decode: Callable[[object], Item], limit: int) -> tuple[Item, ...]:
        """Return a list's elements, each decoded.

        Raises:
            AgentError: It is something else or missing, has more than `limit` elements, or one is wrong.
        """
        value = self._members.get(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self.wrong(name)
        return tuple(decode(item) for item in value)

    def integers(self, name: str, limit: int = 1024) -> dict[str, int]:
        """Return an object whose members are all whole numbers from 0.

        Raises:
            AgentError: It is something else or missing, or has more than `limit` members.
        """
        members = self.record(name)
        keys = members.raw().keys()
        if len(keys) > limit:
            raise self.wrong(name)
        return {key: members.integer(key) for key in keys}

    def raw(self) -> dict[str, Any]:
        """Return the members as they came: bounded by their line, and nothing more is known of them."""
        return self._members

    def wrong(self, name: str) -> AgentError:
        """Return the error that tells of a member that is not what it should be."""
        return AgentError(f"the agent's {self._subject} is not what the protocol says: {name}")
