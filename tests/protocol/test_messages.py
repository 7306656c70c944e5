"""The host's half: what it makes of hostile lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bouvet.errors import AgentError
from bouvet.protocol import (
    LINE_LIMIT,
    DirectoryEntry,
    ErrorCode,
    ExecResult,
    LineSplitter,
    connect_line,
    decode_connect_answer,
    decode_exec,
    decode_list_dir,
    decode_ping,
    decode_read_file,
    decode_response,
    decode_write_file,
    encode_request,
)


@given(st.lists(st.binary(max_size=50)), st.integers(1, 200))
def test_lines_come_out_however_the_stream_is_cut(lines: list[bytes], length: int) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    splitter = LineSplitter()
    found = [line for i in range(0, len(stream), length) for line in splitter.feed(stream[i : i + length])]
    assert found == lines
    assert splitter.pending == len(b"rest")


def test_a_line_over_the_limit_is_refused_before_it_ends() -> None:
    splitter = LineSplitter(100)
    assert splitter.feed(b"x" * 100 + b"\n") == [b"x" * 100]
    splitter.feed(b"x" * 100)
    with pytest.raises(AgentError):
        splitter.feed(b"x")
    with pytest.raises(AgentError):
        LineSplitter(100).feed(b"x" * 101 + b"\n")


def test_requests() -> None:
    line = encode_request(7, "exec", {"cmd": "é\n"})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"jsonrpc": "2.0", "id": 7, "method": "exec", "params": {"cmd": "é\n"}}
    with pytest.raises(AgentError, match="Unicode"):
        encode_request(1, "exec", {"cmd": "\udcff"})
    with pytest.raises(AgentError, match="limit"):
        encode_request(1, "exec", {"cmd": "x" * LINE_LIMIT})


def test_responses() -> None:
    assert decode_response(b'{"jsonrpc":"2.0","id":1,"result":{"pong":true}}').result == {"pong": True}
    refused = decode_response(
        b'{"jsonrpc":"2.0","id":2,"error":{"code":-32603,"message":"open","data":{"errno":"ENOENT"}}}'
    )
    assert refused.request == 2
    assert refused.error is not None
    assert (refused.error.code, refused.error.errno) == (ErrorCode.INTERNAL, "ENOENT")
    unread = decode_response(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x","data":[1]}}')
    assert unread.request is None
    assert unread.error is not None
    assert unread.error.errno is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"[]",
        b"3",
        b"{}",
        b'{"jsonrpc":"2.0","id":1}',
        b'{"id":1,"result":{}}',
        b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":true,"result":{}}',
        b'{"jsonrpc":"2.0","id":[1],"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":NaN}',
        b'{"jsonrpc":"2.0","id":1,"error":null}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}',
        b"[" * 1_000_000,
        b'{"jsonrpc":"2.0","id":1,"result":' + b'{"a":' * 100_000,
        b'{"jsonrpc":"2.0","id":' + b"9" * 100_000 + b',"result":{}}',
    ],
)
def test_lines_that_are_no_responses(line: bytes) -> None:
    with pytest.raises(AgentError):
        decode_response(line)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_response_or_an_agent_error(line: bytes) -> None:
    try:
        decode_response(line)
    except AgentError:
        return


def test_the_handshake() -> None:
    assert connect_line() == b"CONNECT 52\n"
    assert decode_connect_answer(b"OK 1073741824") == 1073741824
    for answer in (
        b"",
        b"OK",
        b"OK ",
        b"OK x",
        b"OK 1 ",
        b"OK -1",
        b"ok 1",
        b"OK 99999999999",
        b"\xff" * 1000,
    ):
        with pytest.raises(AgentError):
            decode_connect_answer(answer)


def test_results() -> None:
    decode_ping({"pong": True})
    decode_write_file({"success": True, "newer": 1})
    assert decode_exec({"exit_code": -1, "stdout": "a", "stderr": "b"}) == ExecResult(-1, "a", "b")
    assert decode_read_file({"content": "x"}) == "x"
    entries = [{"name": "a", "is_dir": False, "size": 3}, {"name": "b", "is_dir": True, "size": 0}]
    assert decode_list_dir({"entries": entries}) == (
        DirectoryEntry("a", False, 3),
        DirectoryEntry("b", True, 0),
    )


@pytest.mark.parametrize(
    ("decode", "result"),
    [
        (decode_ping, {"pong": False}),
        (decode_ping, None),
        (decode_write_file, {}),
        (decode_exec, {"exit_code": "0", "stdout": "", "stderr": ""}),
        (decode_exec, {"exit_code": 0, "stdout": ""}),
        (decode_read_file, {"content": b"x"}),
        (decode_read_file, []),
        (decode_list_dir, {"entries": {}}),
        (decode_list_dir, {"entries": [3]}),
        (decode_list_dir, {"entries": [{"name": "a", "is_dir": 0, "size": 1}]}),
        (decode_list_dir, {"entries": [{"name": "a", "is_dir": False, "size": -1}]}),
    ],
)
def test_results_that_are_something_else(decode: Callable[[object], Any], result: object) -> None:
    with pytest.raises(AgentError):
        decode(result)
