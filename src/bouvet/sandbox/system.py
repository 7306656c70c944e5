"""The guest itself: what it is, how it does, and changes to it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

from bouvet.protocol import (
    LogLines,
    Resumed,
    SystemInfo,
    decode_info,
    decode_logs,
    decode_metrics,
    decode_nothing,
    decode_resumed,
    decode_step,
)
from bouvet.sandbox.connection import CALL_SECONDS, Connection


class System:
    """A guest as a whole.

    Every method raises `CallFailed` where no response comes, and `RequestRefused` where the guest refuses.

    Args:
        connection: The connection that is used.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def info(self, *, timeout: float = CALL_SECONDS) -> SystemInfo:
        """Return what the guest is."""
        return self._connection.call("system.info", {}, decode_info, timeout=timeout)

    def metrics(self, *, timeout: float = CALL_SECONDS) -> Mapping[str, Any]:
        """Return how the guest does, as the protocol's reference lists it; nothing of it is checked."""
        return self._connection.call("system.metrics", {}, decode_metrics, timeout=timeout)

    def set_clock(self, time_ns: int, *, timeout: float = CALL_SECONDS) -> int:
        """Set the guest's clock; return how far it went forward, in nanoseconds.

        Args:
            time_ns: Nanoseconds since 1970.
            timeout: Seconds to wait for the response.
        """
        return self._connection.call("system.set_clock", {"time_ns": time_ns}, decode_step, timeout=timeout)

    def resume(
        self,
        token: str,
        *,
        time_ns: int | None = None,
        entropy: bytes | None = None,
        hostname: str | None = None,
        timeout: float = CALL_SECONDS,
    ) -> Resumed:
        """Make a guest that was restored, or cloned, one of its own: clock, randomness, identity, network.

        Args:
            token: A name for this occasion: a second call with the same one only tries what had failed.
            time_ns: The time, in nanoseconds since 1970.
            entropy: Random bytes that no other guest gets.
            hostname: Its host name.
            timeout: Seconds to wait for the response.

        Returns:
            What was changed, and what could not be: that is no error here.
        """
        params: dict[str, Any] = {"token": token}
        params |= {"time_ns": time_ns} if time_ns is not None else {}
        params |= {"entropy": base64.b64encode(entropy).decode()} if entropy is not None else {}
        params |= {"hostname": hostname} if hostname is not None else {}
        return self._connection.call("system.resume", params, decode_resumed, timeout=timeout)

    def shutdown(
        self,
        mode: Literal["poweroff", "reboot", "halt"] = "poweroff",
        *,
        delay: float = 0,
        timeout: float = CALL_SECONDS,
    ) -> None:
        """Let the guest end in order; it answers before it does.

        Args:
            mode: How.
            delay: Seconds from the response to the end's beginning, to the millisecond, at most 3,600.
            timeout: Seconds to wait for the response.
        """
        params: dict[str, Any] = {"mode": mode}
        params |= {"delay_ms": round(1000 * delay)} if delay else {}
        self._connection.call("system.shutdown", params, decode_nothing, timeout=timeout)

    def logs(
        self,
        *,
        unit: str | None = None,
        lines: int | None = None,
        cursor: str | None = None,
        since_ns: int | None = None,
        timeout: float = CALL_SECONDS,
    ) -> LogLines:
        """Return lines of the guest's journal.

        Args:
            unit: Only of this unit of systemd's.
            lines: At most the last so many.
            cursor: Only what came after an earlier answer; not with `since_ns`.
            since_ns: Only what came at this time or later, in nanoseconds since 1970, by the guest's clock.
            timeout: Seconds to wait for the response.
        """
        params: dict[str, Any] = {}
        params |= {"unit": unit} if unit is not None else {}
        params |= {"lines": lines} if lines is not None else {}
        params |= {"cursor": cursor} if cursor is not None else {}
        params |= {"since_ns": since_ns} if since_ns is not None else {}
        return self._connection.call("system.logs", params, decode_logs, timeout=timeout)
