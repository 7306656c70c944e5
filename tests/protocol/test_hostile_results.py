"""Whatever a guest sends as a result or a notification is decoded, or refused as the agent's error."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bouvet import protocol
from bouvet.errors import AgentError
from bouvet.protocol import Notification

RIGHT: dict[str, dict[str, Any]] = {
    "decode_hello": {"protocol": 1, "agent": "1", "capabilities": ["exec"], "limits": {"line": 1}},
    "decode_cancelled": {"cancelled": True},
    "decode_detailed_exec": {
        "exit_code": 1, "stdout": "eA==", "stderr": "", "signal": None, "timed_out": False,
        "truncated": False, "oom_killed": False, "duration_ms": 1,
    },
    "decode_started": {"id": "1", "pid": 1},
    "decode_attached": {
        "id": "1", "pid": 1, "running": True, "streams": {"stdout": {"oldest": 0, "next": 1}},
    },
    "decode_waited": {
        "running": False, "exit_code": 0, "signal": "SIGKILL", "timed_out": False, "oom_killed": False,
        "duration_ms": 1, "stdout": 1, "stderr": 2,
    },
    "decode_processes": {"processes": [{"id": "1", "pid": 1, "command": "true", "running": True}]},
    "decode_written": {"written": 1},
    "decode_stat": {
        "type": "symlink", "mode": 0o777, "uid": 0, "gid": 0, "size": 1, "mtime_ns": 1, "inode": 1,
        "links": 1, "target": "x",
    },
    "decode_piece": {"data": "eA==", "offset": 0, "eof": True, "size": 1},
    "decode_file_written": {"written": 1},
    "decode_uploaded": {"bytes": 1},
    "decode_watch": {"watch": 1},
    "decode_info": {
        "agent": "1", "protocol": 1, "kernel": "6.1", "architecture": "x86_64", "hostname": "h",
        "boot_id": "b", "machine_id": "m", "uptime_ms": 1, "image": {"name": "n"},
    },
    "decode_step": {"step_ns": -1},
    "decode_resumed": {
        "changed": ["clock"], "failed": [{"part": "network", "message": "no server"}], "repeated": False,
    },
    "decode_logs": {"lines": ["x"], "cursor": "c", "more": True},
}  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def decoder(name: str) -> Callable[[object], object]:
    found: Callable[[object], object] = getattr(protocol, name)
    return found


@pytest.mark.parametrize(("name", "right"), RIGHT.items(), ids=RIGHT)
def test_what_is_right_is_decoded(name: str, right: dict[str, Any]) -> None:
    decoder(name)(right)


@pytest.mark.parametrize(
    ("name", "member"), [(name, member) for name, right in RIGHT.items() for member in right]
)
def test_a_member_of_another_type_is_refused(name: str, member: str) -> None:
    with pytest.raises(AgentError):
        decoder(name)(RIGHT[name] | {member: [[]]})


@pytest.mark.parametrize("name", RIGHT)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_anything_else_is_decoded_or_refused(name: str, data: st.DataObject) -> None:
    members = st.dictionaries(st.sampled_from(sorted(RIGHT[name])), JSON)
    value = data.draw(JSON | members.map(lambda wrong: RIGHT[name] | wrong))
    # As it comes from the wire.
    value = json.loads(json.dumps(value))
    try:
        decoder(name)(value)
    except AgentError as error:
        assert len(error.message) < 1000  # noqa: PT017


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(["process.output", "process.gap", "process.exit", "file.changed", "other"]),
    params=st.dictionaries(
        st.sampled_from(
            ["id", "stream", "offset", "data", "encoding", "length", "exit_code", "path", "event"]
        ),
        JSON | st.sampled_from(["stdout", "created", base64.b64encode(b"x").decode()]),
    ),
)
def test_any_notification_is_decoded_or_refused(method: str, params: dict[str, Any]) -> None:
    for decode in (protocol.decode_event, protocol.decode_file_event):
        try:
            decode(Notification(method, params))
        except AgentError as error:
            assert len(error.message) < 1000  # noqa: PT017
