"""A hostile guest, and a confused QEMU, against the real backend process.

It may end, with a reason, or go on; it may not crash, hang, or grow. `BOUVET_FUZZ_SECONDS` sets how long
each of the two tests goes on (8 by default), `BOUVET_FUZZ_SEED` where it begins.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bouvet.errors import FormatError, MachineError
from bouvet.formats.virtio import vhost_user
from bouvet.formats.virtio.vhost_user import Request
from bouvet.formats.virtio.vsock import Operation
from tests.formats.virtio.driver import FEATURES, GUEST_BASE, PATIENCE, USER_BASE, DriverQueue, Guest
from tests.unit.vm.vsock_machine import Machine, new_machine

SECONDS = float(os.environ.get("BOUVET_FUZZ_SECONDS", "8"))
SEED = int(os.environ.get("BOUVET_FUZZ_SEED", "0"))

MAX_RESIDENT = 64 << 20
NASTY = (0, 1, 7, 63, 64, 0x7FFF, 0xFFFF, 1 << 30, 0xFFFFFFFF, GUEST_BASE, USER_BASE, 1 << 63, (1 << 64) - 1)

Round = Callable[[Machine, random.Random], None]


def rounds(tmp_path: Path, attack: Round) -> set[int | None]:
    """Attack one new backend after another; return how they ended, None for those that went on."""
    deadline = time.monotonic() + SECONDS
    seed, outcomes = SEED, set()
    while time.monotonic() < deadline:
        run_directory = tmp_path / str(seed)
        run_directory.mkdir(mode=0o700)
        choice = random.Random(seed)
        try:
            guest = Guest(indirect=choice.random() < 0.5, queue_size=choice.choice([4, 64]), room=512)
            with new_machine(run_directory, guest) as machine:
                attack(machine, choice)
                outcomes.add(examine(machine))
        except BaseException as error:
            error.add_note(f"with BOUVET_FUZZ_SEED={seed}")
            raise
        seed += 1
    return outcomes


def examine(machine: Machine) -> int | None:
    """Check that the backend still works, or has ended as it should."""
    backend = machine.backend
    if machine.front_end.answers(0x5EED):
        assert machine.resident() < MAX_RESIDENT
        machine.front_end.socket.close()
        assert backend.process.wait(PATIENCE) == 0
        assert machine.complaints() == []
        return None
    status = backend.process.wait(PATIENCE)
    log = machine.complaints()
    assert status in {FormatError.exit_code, MachineError.exit_code}, (status, log)
    assert len(log) == 1, log
    assert log[0].startswith("vsock: "), log
    assert not backend.socket_path.exists()
    return status


def deface(queue: DriverQueue, choice: random.Random, *, reckless: bool) -> None:
    """Change one field of a queue; only a reckless guest changes what ends everything at once."""
    descriptor = queue.descriptors + 16 * choice.randrange(queue.size)
    entry = choice.randrange(queue.size)
    kind = choice.randrange(1000 if reckless else 980)
    if kind < 300:
        queue.memory.write(descriptor + 8, choice.choice([1, 44, 45, 4096, 70_000]).to_bytes(4, "little"))
    elif kind < 500:
        queue.memory.write(descriptor + 12, bytes([choice.randrange(8), 0, choice.randrange(queue.size), 0]))
    elif kind < 700:
        queue.available_words[2 + entry] = choice.randrange(queue.size)
    elif kind < 900:
        queue.memory.write(queue.used + choice.randrange(2, 40), choice.randbytes(4))
    elif kind < 980:
        queue.available_words[0] = queue.used_words[0] = choice.randrange(2)
    else:
        queue.memory.write(choice.choice([descriptor, queue.available]), choice.randbytes(8))


def hostile_guest(machine: Machine, choice: random.Random) -> None:
    """Write into the rings while the backend works on them."""
    programs = [machine.dial() for _ in range(4)]
    for program in programs:
        program.settimeout(0)
    guest = machine.guest
    guest.receive.careless = guest.transmit.careless = True
    stop = threading.Event()
    scribbler = random.Random(choice.random())
    reckless = choice.random() < 0.3

    def scribble() -> None:
        while not stop.is_set():
            deface(scribbler.choice([guest.receive, guest.transmit]), scribbler, reckless=reckless)

    thread = threading.Thread(target=scribble)
    for number in range(choice.randrange(30)):
        if number == 10:
            thread.start()
        with contextlib.suppress(OSError):
            choice.choice(programs).sendall(bytes(choice.choice([1, 100, 3000])))
        ports = (choice.choice([1 << 30, (1 << 30) + 1, 9]), 52)
        guest.send_carelessly(
            choice.choice([*Operation, 0, 99]), *ports, bytes(choice.choice([0, 5, 4096])),
            flags=choice.randrange(4), buffer_size=choice.choice([0, 1, 4096, 0xFFFFFFFF]),
            forwarded=choice.choice([0, 0, 1, 0xFFFFFFFF]),
        )  # fmt: skip
    if thread.ident is not None:
        stop.set()
        thread.join()


def confused_qemu(machine: Machine, choice: random.Random) -> None:
    """Send messages that are well-formed, or nearly so, in any order and with any descriptors."""
    machine.dial()
    for _ in range(choice.randrange(1, 12)):
        request = choice.choice([*Request] * 3 + [77])
        ring = choice.choice([0, 1] * 10 + [2])
        if choice.random() < 0.9:
            payload = sensible(request, ring, choice)
        else:
            payload = choice.randbytes(choice.randrange(60))
        descriptors = choice.choice([[], [], [machine.front_end.kicks[0]], [machine.guest.memory.file] * 3])
        if request in {Request.SET_VRING_KICK, Request.SET_VRING_CALL} and choice.random() < 0.9:
            descriptors = [choice.choice([*machine.front_end.kicks, machine.guest.memory.file])]
        try:
            machine.front_end.send(
                request, payload, descriptors, flags=choice.choice([1] * 9 + [9] * 9 + [0])
            )
        except OSError:
            return
        machine.guest.kick(1)


def sensible(request: int, ring: int, choice: random.Random) -> bytes:
    """Return a payload of the kind that the request has, with numbers that may be nonsense."""
    payload = b""
    match request:
        case Request.SET_VRING_NUM | Request.SET_VRING_BASE | Request.SET_VRING_ENABLE:
            payload = vhost_user.VRING_STATE.pack(ring, choice.choice([0, 1, 4, 64, *NASTY[:9]]))
        case Request.GET_VRING_BASE:
            payload = vhost_user.VRING_STATE.pack(ring, 0)
        case Request.SET_VRING_ADDR:
            places = [USER_BASE + 4096 * choice.randrange(-1, 20) for _ in range(3)]
            payload = vhost_user.VRING_ADDRESS.pack(ring, 0, *places, 0)
        case Request.SET_MEM_TABLE:
            region = [GUEST_BASE, 8 << 20, USER_BASE, 4096]
            if choice.random() < 0.5:
                region = choice.choices(NASTY, k=4)
            payload = vhost_user.MEMORY_TABLE.pack(1, 0) + vhost_user.MEMORY_REGION.pack(*region)
        case Request.SET_FEATURES:
            payload = vhost_user.U64.pack(choice.choice([0, FEATURES, FEATURES, 1 << 5]))
        case Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR:
            payload = vhost_user.U64.pack(ring)
        case Request.GET_CONFIG:
            payload = vhost_user.CONFIG.pack(0, choice.choice([0, 8, 8, 1 << 31]), 0) + bytes(8)
        case Request.SET_PROTOCOL_FEATURES:
            payload = vhost_user.U64.pack(0)
    return payload


def test_a_hostile_guest(tmp_path: Path) -> None:
    outcomes = rounds(tmp_path, hostile_guest)
    # Both must have been there, or this has tested less than it says.
    assert None in outcomes
    assert FormatError.exit_code in outcomes


def test_a_confused_qemu(tmp_path: Path) -> None:
    outcomes = rounds(tmp_path, confused_qemu)
    assert None in outcomes
    assert FormatError.exit_code in outcomes
