"""Processes as guests tell of them, also those that mean harm."""

from __future__ import annotations

import base64
import json
import resource
import socket
import threading
from typing import Any

import pytest

from bouvet.errors import AgentError
from bouvet.protocol import Ending, Exit, Gap, Output, RequestRefused
from bouvet.sandbox import CallFailed, CallTimeout, ConnectionLost, ProcessOptions, TerminalSize
from bouvet.sandbox.output_queue import QUEUE_LIMIT
from tests.unit.sandbox.conftest import Meet
from tests.unit.sandbox.scripts import Said, answering, ending, exit_told, next_request, output, respond, tell

SECONDS = 60.0
STARTED: dict[str, Any] = {"id": "p1", "pid": 7}
ATTACHED: dict[str, Any] = {
    "id": "p1",
    "pid": 7,
    "running": True,
    "streams": {"stdout": {"oldest": 100, "next": 104}},
}
ENDED = Exit(Ending(0, None, timed_out=False, oom_killed=False, duration=0.012), {"stdout": 0, "stderr": 0})


def test_output_comes_in_order_with_its_gaps_and_its_end(meet: Meet) -> None:
    gap = tell("process.gap", id="p1", stream="stdout", offset=2, length=10)
    said: list[Said] = [
        STARTED,
        output(0, b"\xff\0"),
        gap,
        output(0, b"e", stream="stderr"),
        output(12, b"x"),
        exit_told(),
    ]
    process = meet(answering(said)).processes.start("true")
    assert (process.id, process.pid) == ("p1", 7)
    assert list(process.events(timeout=SECONDS)) == [
        Output("stdout", 0, b"\xff\0"),
        Gap("stdout", 2, 10),
        Output("stderr", 0, b"e"),
        Output("stdout", 12, b"x"),
        ENDED,
    ]
    assert process.offsets == {"stdout": 13, "stderr": 1}


def test_after_the_end_nothing_is_waited_for(meet: Meet) -> None:
    process = meet(answering([STARTED, exit_told()])).processes.start("true")
    assert list(process.events(timeout=SECONDS)) == [ENDED]
    with pytest.raises(AgentError, match="nothing more"):
        next(process.events())


def test_what_comes_late_of_a_process_that_was_detached_is_dropped(meet: Meet) -> None:
    client = meet(
        answering(
            [STARTED, output(0, b"x")],
            [{}, output(1, b"late")],
            [ATTACHED, output(100, b"y")],
            {"pong": True},
        )
    )
    process = client.processes.start("true")
    process.detach()
    with pytest.raises(AgentError, match="nothing more"):
        next(process.events())
    again = client.processes.attach("p1")
    assert next(again.events(timeout=SECONDS)) == Output("stdout", 100, b"y")
    client.ping(timeout=SECONDS)


def test_a_process_is_attached_to_where_another_client_stopped(meet: Meet) -> None:
    client = meet(answering([ATTACHED, output(102, b"cd"), exit_told(3)]))
    process = client.processes.attach("p1", offsets={"stdout": 102})
    first, last = process.events(timeout=SECONDS)
    assert first == Output("stdout", 102, b"cd")
    assert isinstance(last, Exit)
    assert last.ending.exit_code == 3


def test_requests_are_as_the_protocol_says(meet: Meet) -> None:
    asked: list[dict[str, Any]] = []

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        for result in (STARTED, {"written": 2}, {"written": 0}, {}, {}, {}, {"running": True}, {}, ATTACHED):
            asked.append(next_request(stream))
            guest.sendall(respond(asked[-1]["id"], result=result))
        stream.read()

    client = meet(live)
    options = ProcessOptions(
        cwd="/", environment={"A": "1"}, user=1000, time_limit=1.5, terminal=TerminalSize(24, 80), tied=True
    )
    process = client.processes.start(["cat", "-"], options)
    process.write(b"\xff\n")
    process.close_stdin()
    process.resize(TerminalSize(50, 132))
    process.signal("SIGTERM", everything=True)
    process.kill()
    assert process.wait(timeout=0.5) is None
    process.detach()
    client.processes.attach("p1", offsets={"stdout": 4})
    assert [(one["method"], one["params"]) for one in asked] == [
        (
            "process.start",
            {
                "argv": ["cat", "-"],
                "cwd": "/",
                "env": {"A": "1"},
                "user": 1000,
                "timeout_ms": 1500,
                "pty": {"rows": 24, "columns": 80},
                "tie": True,
                "encoding": "base64",
            },
        ),
        ("process.stdin", {"id": "p1", "data": base64.b64encode(b"\xff\n").decode(), "encoding": "base64"}),
        ("process.stdin", {"id": "p1", "data": "", "close": True}),
        ("process.resize", {"id": "p1", "rows": 50, "columns": 132}),
        ("process.signal", {"id": "p1", "signal": "SIGTERM", "all": True}),
        ("process.kill", {"id": "p1"}),
        ("process.wait", {"id": "p1", "timeout_ms": 500}),
        ("process.detach", {"id": "p1"}),
        ("process.attach", {"id": "p1", "encoding": "base64", "offsets": {"stdout": 4}}),
    ]


def test_what_was_not_read_holds_the_guest_up_and_is_not_lost(meet: Meet) -> None:
    piece, count = b"x" * (64 << 10), 64 << 4
    sent = 0

    def live(guest: socket.socket) -> None:
        nonlocal sent
        stream = guest.makefile("rb")
        guest.sendall(respond(next_request(stream)["id"], result=STARTED))
        for number in range(count):
            guest.sendall(output(number * len(piece), piece))
            sent += len(piece)
        guest.sendall(exit_told())
        stream.read()

    process = meet(live).processes.start("yes")
    events = process.events(timeout=SECONDS)
    next(events)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = len(piece)
    for event in events:
        # What is under way in sockets and buffers is far less than a queue.
        assert sent - total < 2 * QUEUE_LIMIT
        total += len(event.data) if isinstance(event, Output) else 0
    assert total == count * len(piece)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 4 * QUEUE_LIMIT >> 10


def piece(data: str, encoding: str) -> bytes:
    return tell("process.output", id="p1", stream="stdout", offset=0, data=data, encoding=encoding)


HOSTILE: dict[str, list[Said]] = {
    "output of an unknown process": [output(0, b"x", process="p2")],
    "an end of an unknown process": [exit_told(process="p2")],
    "output before the answer": [output(0, b"x"), STARTED],
    "a byte twice": [STARTED, output(0, b"ab"), output(1, b"b")],
    "a byte too few": [STARTED, output(0, b"ab"), output(3, b"c")],
    "a gap where there is none": [STARTED, tell("process.gap", id="p1", stream="stdout", offset=5, length=1)],
    "a gap of nothing": [STARTED, tell("process.gap", id="p1", stream="stdout", offset=0, length=0)],
    "nothing, as output": [STARTED, output(0, b"")],
    "too much in one piece": [STARTED, output(0, bytes((1 << 20) + 1))],
    "an unknown stream": [STARTED, output(0, b"x", stream="stdlog")],
    "an offset below zero": [STARTED, output(-1, b"x")],
    "an end without a status": [STARTED, tell("process.exit", id="p1")],
    "a status that is none": [STARTED, exit_told(exit_code=True)],
    "two ends": [STARTED, exit_told(), exit_told()],
    "output after the end": [STARTED, exit_told(), output(0, b"x")],
    "no base64": [STARTED, piece("§", "base64")],
    "another encoding": [STARTED, piece("x", "utf-8")],
    "an unknown notification": [STARTED, tell("process.levitated", id="p1")],
    "a list as a name": [STARTED, tell("process.output", id=["p1"])],
    "no name": [STARTED, tell("process.output")],
    "a request": [STARTED, b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}\n'],
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
def test_nonsense_about_a_process_ends_the_connection(meet: Meet, said: list[Said]) -> None:
    client = meet(answering(said))

    def watch() -> None:
        list(client.processes.start("true").events(timeout=SECONDS))
        client.ping(timeout=SECONDS)

    with pytest.raises(CallFailed) as failure:
        watch()
    assert not isinstance(failure.value, CallTimeout | ConnectionLost)
    assert len(failure.value.message) < 1000
    with pytest.raises(CallFailed):
        client.ping(timeout=SECONDS)


@pytest.mark.parametrize(
    "result",
    [{}, {"id": 1, "pid": 7}, {"id": "p1"}, {"id": "p1", "pid": 0}, {"id": "x" * 1000, "pid": 7}, []],
)
def test_a_start_of_another_shape_is_refused(meet: Meet, result: Any) -> None:
    with pytest.raises(AgentError):
        meet(answering([result])).processes.start("true", timeout=SECONDS)


def test_a_name_that_is_given_twice_is_refused(meet: Meet) -> None:
    client = meet(answering([STARTED], [STARTED]))
    client.processes.start("true")
    with pytest.raises(CallFailed, match="twice"):
        client.processes.start("true", timeout=SECONDS)


def test_endless_small_pieces_fill_the_queue_too(meet: Meet) -> None:
    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        guest.sendall(respond(next_request(stream)["id"], result=STARTED))
        offset = 0
        while True:
            guest.sendall(b"".join(output(offset + n, b"x") for n in range(1000)))
            offset += 1000

    client = meet(live)
    process = client.processes.start("yes")
    events = process.events(timeout=SECONDS)
    assert [next(events) for _ in range(3000)][-1] == Output("stdout", 2999, b"x")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CallTimeout):
        client.ping(timeout=0.5)  # nothing is read any more
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 8 * QUEUE_LIMIT >> 10


def test_a_connection_can_be_closed_while_its_queue_is_full(meet: Meet) -> None:
    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        guest.sendall(respond(next_request(stream)["id"], result=STARTED))
        for number in range(100):
            guest.sendall(output(number << 20, bytes(1 << 20)))

    client = meet(live)
    process = client.processes.start("yes")
    next(process.events(timeout=SECONDS))
    client.close()
    with pytest.raises(CallFailed):
        list(process.events(timeout=SECONDS))


def test_when_the_connection_is_lost_what_came_can_be_taken(meet: Meet) -> None:
    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        guest.sendall(respond(next_request(stream)["id"], result=STARTED) + output(0, b"last words"))

    process = meet(live).processes.start("true")
    events = process.events(timeout=SECONDS)
    assert next(events) == Output("stdout", 0, b"last words")
    with pytest.raises(ConnectionLost):
        next(events)
    assert process.offsets == {"stdout": 10}


def test_silence_is_waited_out_and_tried_again(meet: Meet) -> None:
    speak = threading.Event()

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        guest.sendall(respond(next_request(stream)["id"], result=STARTED))
        speak.wait(SECONDS)
        guest.sendall(exit_told())
        stream.read()

    process = meet(live).processes.start("sleep 1")
    with pytest.raises(CallTimeout):
        next(process.events(timeout=0.05))
    speak.set()
    assert list(process.events(timeout=SECONDS)) == [ENDED]


def test_a_start_that_was_given_up_may_still_be_told_of(meet: Meet) -> None:
    late = threading.Event()

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        number = next_request(stream)["id"]
        late.wait(SECONDS)
        guest.sendall(respond(number, result=STARTED) + output(0, b"x" * 1000) + exit_told())
        guest.sendall(respond(next_request(stream)["id"], result={"pong": True}))
        stream.read()

    client = meet(live)
    with pytest.raises(CallTimeout):
        client.processes.start("true", timeout=0.05)
    late.set()
    client.ping(timeout=SECONDS)


def test_a_process_that_is_not_watched_tells_nothing(meet: Meet) -> None:
    process = meet(answering(STARTED, {"running": False} | ending(4))).processes.start(
        "true", ProcessOptions(watched=False)
    )
    with pytest.raises(AgentError, match="not watched"):
        next(process.events())
    ended = process.wait(timeout=SECONDS)
    assert ended is not None
    assert ended.ending.exit_code == 4


def test_a_process_that_the_agent_takes_nothing_for_is_an_error(meet: Meet) -> None:
    process = meet(answering(STARTED, {"written": 0})).processes.start("cat")
    with pytest.raises(AgentError, match="written"):
        process.write(b"x")


def test_a_call_that_is_given_up_is_cancelled(meet: Meet) -> None:
    seen: list[dict[str, Any]] = []
    cancelled = threading.Event()

    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        seen.extend(json.loads(stream.readline()) for _ in range(2))
        guest.sendall(respond(1, error={"code": -32800, "message": "cancelled"}))
        cancelled.set()
        guest.sendall(respond(next_request(stream)["id"], result={"pong": True}))
        stream.read()

    client = meet(live)
    with pytest.raises(CallTimeout):
        client.exec("sleep 1000", timeout=0.05)
    assert cancelled.wait(SECONDS)
    assert seen[1] == {"jsonrpc": "2.0", "method": "cancel", "params": {"id": seen[0]["id"]}}
    client.ping(timeout=SECONDS)


def test_another_thread_can_cancel_a_call(meet: Meet) -> None:
    def live(guest: socket.socket) -> None:
        stream = guest.makefile("rb")
        running, cancel = next_request(stream), next_request(stream)
        assert cancel["params"] == {"id": running["id"]}
        guest.sendall(respond(running["id"], error={"code": -32800, "message": "cancelled"}))
        guest.sendall(respond(cancel["id"], result={"cancelled": True}))
        stream.read()

    call = meet(live).submit("sleep 1000")
    assert call.cancel(timeout=SECONDS)
    with pytest.raises(RequestRefused) as refusal:
        call.result(SECONDS)
    assert refusal.value.code == -32800
