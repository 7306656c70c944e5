"""What a client does when the guest's agent was replaced by something else."""

from __future__ import annotations

import concurrent.futures
import json
import resource
import socket
import threading
from collections.abc import Callable

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import LINE_LIMIT
from bouvet.sandbox import CallFailed, CallTimeout, ConnectionLost
from tests.unit.sandbox.conftest import Guest, Meet

SECONDS = 60.0


def requests(guest: socket.socket) -> list[int]:
    """Wait for requests, and return their ids; those to cancel others have none."""
    numbers: list[int] = []
    while not numbers and (lines := guest.recv(1 << 16)):
        messages = [json.loads(line) for line in lines.splitlines()]
        numbers = [message["id"] for message in messages if "id" in message]
    return numbers


def respond(number: object, **members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, **members}).encode() + b"\n"


def saying(answer: bytes) -> Guest:
    """Return a guest that answers the first request so, and then says nothing until the client is gone."""

    def live(guest: socket.socket) -> None:
        requests(guest)
        guest.sendall(answer)
        while guest.recv(1 << 16):
            pass

    return live


def flooding(piece: bytes) -> Guest:
    """Return a guest that never stops saying the same."""

    def live(guest: socket.socket) -> None:
        requests(guest)
        while True:
            guest.sendall(piece)

    return live


def hanging_up_after(piece: bytes) -> Guest:
    """Return a guest that answers the first request so, and hangs up."""

    def live(guest: socket.socket) -> None:
        requests(guest)
        guest.sendall(piece)

    return live


DEEP = 10_000_000

BREAKING: dict[str, Guest] = {
    "garbage": saying(b"\xff\xfe\x00 no JSON\n"),
    "not an object": saying(b"[1]\n"),
    "not JSON-RPC": saying(b'{"id":1,"result":{"pong":true}}\n'),
    "an empty line": saying(b"\n"),
    "deep nesting": saying(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * DEEP + b"]" * DEEP + b"}\n"),
    "deep objects": saying(b'{"a":' * DEEP + b"\n"),
    "millions of lists": saying(b'{"jsonrpc":"2.0","id":1,"result":[' + b"[]," * (20 << 20) + b"0]}\n"),
    "millions of strings": saying(b'{"jsonrpc":"2.0","id":1,"result":[' + b'"",' * (20 << 20) + b"0]}\n"),
    "a string of quotes without end": saying(b'{"result":"' + b'\\",[{' * (10 << 20) + b"\n"),
    "a huge number": saying(b'{"jsonrpc":"2.0","id":' + b"1" * 1_000_000 + b',"result":{}}\n'),
    "neither result nor error": saying(b'{"jsonrpc":"2.0","id":1}\n'),
    "an error that is none": saying(respond(1, error="no")),
    "another id": saying(respond(2, result={"pong": True})),
    "a string as id": saying(respond("1", result={"pong": True})),
    "true as id": saying(respond(True, result={"pong": True})),
    "a fraction as id": saying(respond(1.0, result={"pong": True})),
    "no id": saying(respond(None, error={"code": -32700, "message": "what?"})),
    "a notification": saying(b'{"jsonrpc":"2.0","method":"hello","params":{}}\n'),
    "a line without end": flooding(b"x" * (1 << 20)),
    "lines without end": flooding(b"\n" * (1 << 20)),
    "results without end": flooding(respond(7, result={}) * 1000),
}

LEAVING: dict[str, Guest] = {
    "silence, and the end": requests,
    "the end in the middle of a line": hanging_up_after(b'{"jsonrpc":"2.0","i'),
}


@pytest.mark.parametrize("guest", BREAKING.values(), ids=BREAKING.keys())
def test_nonsense_ends_the_connection_at_once(meet: Meet, guest: Guest) -> None:
    client = meet(guest)
    with pytest.raises(CallFailed) as failure:
        client.ping(timeout=SECONDS)
    assert type(failure.value) is CallFailed
    assert failure.value.sent
    assert len(failure.value.message) < 1000
    with pytest.raises(CallFailed) as later:
        client.ping(timeout=SECONDS)
    assert not later.value.sent


@pytest.mark.parametrize("guest", LEAVING.values(), ids=LEAVING.keys())
def test_hanging_up_is_told_apart_from_nonsense(meet: Meet, guest: Guest) -> None:
    with pytest.raises(ConnectionLost) as failure:
        meet(guest).ping(timeout=SECONDS)
    assert failure.value.sent


def test_a_line_without_end_takes_little_more_than_the_limit(meet: Meet) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CallFailed, match="more than"):
        meet(flooding(b"x" * (1 << 20))).ping(timeout=SECONDS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * LINE_LIMIT >> 10


def test_elements_inside_of_a_content_are_none(meet: Meet) -> None:
    content = '[{"a":[1,2]},' * 800_000
    assert meet(saying(respond(1, result={"content": content}))).read_file("/x", timeout=SECONDS) == content


def test_an_answer_that_comes_twice_is_nonsense(meet: Meet) -> None:
    client = meet(saying(respond(1, result={"pong": True}) * 2))
    client.ping(timeout=SECONDS)
    with pytest.raises(CallFailed):
        client.ping(timeout=SECONDS)


def test_silence_is_waited_out(meet: Meet) -> None:
    with pytest.raises(CallTimeout) as late:
        meet(saying(b"")).ping(timeout=0.1)
    assert late.value.sent


@pytest.mark.parametrize(
    "result",
    [
        {},
        [],
        None,
        "pong",
        {"exit_code": "0", "stdout": "", "stderr": ""},
        {"exit_code": 0, "stdout": None, "stderr": ""},
        {"exit_code": 0, "stdout": ""},
    ],
)
def test_a_result_of_another_shape_is_refused(meet: Meet, result: object) -> None:
    with pytest.raises(AgentError):
        meet(saying(respond(1, result=result))).exec("true", timeout=SECONDS)


def test_a_guest_that_stops_reading_in_the_middle(meet: Meet) -> None:
    done = threading.Event()
    client = meet(lambda guest: (guest.recv(1), done.wait(SECONDS)))
    with pytest.raises(CallTimeout) as stuck:
        client.write_file("/tmp/x", "x" * (8 << 20), timeout=0.3)
    assert not stuck.value.sent
    # Half a request was sent: whatever followed would be taken for the rest of it.
    with pytest.raises(CallFailed) as later:
        client.ping(timeout=SECONDS)
    assert not later.value.sent
    done.set()


def test_waiting_for_another_requests_sending_has_an_end_too(meet: Meet) -> None:
    done, reading = threading.Event(), threading.Event()

    def live(guest: socket.socket) -> None:
        guest.recv(1)
        reading.set()
        done.wait(SECONDS)

    client = meet(live)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(client.write_file, "/tmp/x", "x" * (8 << 20), timeout=SECONDS)
        assert reading.wait(SECONDS)
        with pytest.raises(CallTimeout) as waiting:
            client.ping(timeout=0.1)
        assert not waiting.value.sent
        done.set()  # the guest hangs up
        failure = stuck.exception(SECONDS)
    assert isinstance(failure, CallFailed)
    assert not failure.sent


def test_a_late_answer_is_not_taken_for_another(meet: Meet) -> None:
    first_is_over = threading.Event()

    def live(guest: socket.socket) -> None:
        (first,) = requests(guest)
        first_is_over.wait(SECONDS)
        (second,) = requests(guest)
        guest.sendall(respond(first, result={"content": "first"}))
        guest.sendall(respond(second, result={"content": "second"}))

    client = meet(live)
    with pytest.raises(CallTimeout):
        client.read_file("/1", timeout=0.05)
    first_is_over.set()
    assert client.read_file("/2", timeout=SECONDS) == "second"


def test_answers_in_any_order_find_their_calls(meet: Meet) -> None:
    count = 16

    def live(guest: socket.socket) -> None:
        asked: dict[int, str] = {}
        stream = guest.makefile("rb")
        while len(asked) < count:
            request = json.loads(stream.readline())
            asked[request["id"]] = request["params"]["path"]
        for number, path in sorted(asked.items(), reverse=True):
            guest.sendall(respond(number, result={"content": path}))

    client = meet(live)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        read: Callable[[str], str] = lambda path: client.read_file(path, timeout=SECONDS)  # noqa: E731
        paths = [f"/{number}" for number in range(count)]
        assert list(pool.map(read, paths)) == paths
