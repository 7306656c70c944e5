"""How fast are the agent's streams of files, against a plain copy through vsock in the same guest?

A small C program in the guest reads or writes a file and a vsock connection with one buffer, and does
nothing else (`vsock_copy.c`). Each round sends and fetches a file in the guest's memory by it and by the
agent, one right after the other, in turns the one and the other first; the host drops what comes, and sends
zeros, so that it costs both the same. A ratio is the median of the rounds' own ratios: what else the host
does slows both of a round.

    python bench/transfer.py [IMAGE] [--rounds N] [--megabytes N] [--json FILE]

IMAGE is `images/output/debian-devbox.ext4` by default; any image with bouvet's agent and systemd will do.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rows import Row, write_json

from bouvet import process
from bouvet.booting import BootOptions, boot
from bouvet.errors import BouvetError
from bouvet.protocol import encode_request
from bouvet.sandbox import AgentClient, connect, dial
from bouvet.vm.machine import MIB, Machine

PORT = 5201
SETTLING_SECONDS = 300.0
TRANSFER_SECONDS = 300.0
START_SECONDS = 30.0
PIECE = bytes(MIB)

END_BYTES = 256
"""More than the message that ends a stream has."""

DIRECTORY = "/dev/shm"
"""The guest's files are in memory: the disk is not what is measured."""


class Transfers:
    """The ways of a file's content between this host and a guest."""

    def __init__(self, machine: Machine, client: AgentClient, megabytes: int) -> None:
        self._machine = machine
        self._path = machine.socket_path
        self._client = client
        self._megabytes = megabytes

    def _plain(self) -> socket.socket:
        # The program may have been started only just now.
        deadline = time.monotonic() + START_SECONDS
        connection = dial(
            self._path,
            port=PORT,
            deadline=deadline,
            ended=lambda seconds: self._machine.wait(seconds) is not None,
        )
        connection.settimeout(TRANSFER_SECONDS)
        return connection

    def plain_download(self) -> int:
        """Fetch the file by the plain copy; return how many bytes came."""
        with self._plain() as connection:
            connection.sendall(b"d")
            buffer = bytearray(MIB)
            received = 0
            while n := connection.recv_into(buffer):
                received += n
        return received

    def plain_upload(self) -> int:
        """Send the file by the plain copy; return how many bytes it has."""
        with self._plain() as connection:
            connection.sendall(b"u" + (self._megabytes * MIB).to_bytes(8, "big"))
            for _ in range(self._megabytes):
                connection.sendall(PIECE)
            if len(connection.recv(1)) != 1:
                raise SystemExit("the plain copy failed")
        return self._megabytes * MIB

    def agent_download(self) -> int:
        """Fetch the file by the agent, and drop what comes as the plain copy's client does."""
        with connect(self._path) as connection:
            connection.settimeout(TRANSFER_SECONDS)
            connection.sendall(encode_request(1, "file.download", {"path": f"{DIRECTORY}/plain"}))
            buffer = bytearray(MIB)
            tail = b""
            while not tail.endswith(b"}\n") or b'"stream.end"' not in tail:
                n = connection.recv_into(buffer)
                if not n:
                    raise SystemExit("the agent hung up")
                tail = (tail + buffer[max(0, n - END_BYTES) : n])[-END_BYTES:]
            end = json.loads(tail[tail.rindex(b'{"jsonrpc"') :])
            return int(end["params"]["bytes"])

    def client_download(self) -> int:
        """Fetch the file by the agent and bouvet's client; return how many bytes came."""
        with self._client.files.open_download(f"{DIRECTORY}/plain", timeout=TRANSFER_SECONDS) as stream:
            return sum(map(len, stream))

    def agent_upload(self) -> int:
        """Send the file by the agent; return how many bytes it has."""
        with self._client.files.open_upload(f"{DIRECTORY}/agent", timeout=TRANSFER_SECONDS) as stream:
            for _ in range(self._megabytes):
                stream.write(PIECE)
        return self._megabytes * MIB


def compile_copy(directory: Path) -> Path:
    """Compile the plain copy, to run in any guest of this host's architecture."""
    program = directory / "vsock_copy"
    source = str(Path(__file__).with_name("vsock_copy.c"))
    process.run(["gcc", "-static", "-O2", "-Wall", "-o", str(program), source], timeout=120)
    return program


def seconds(transfer: Callable[[], int], expected: int) -> float:
    started = time.perf_counter()
    moved = transfer()
    if moved != expected:
        raise SystemExit(f"{moved} bytes came, not {expected}")
    return time.perf_counter() - started


def measure(image: Path, rounds: int, megabytes: int) -> tuple[str, dict[str, list[float]], float]:
    """Return the accelerator, the megabytes a second of each way and round, and the agent's peak memory."""
    with (
        tempfile.TemporaryDirectory(prefix="bouvet-bench-") as directory,
        boot(image, BootOptions(memory=1024 * MIB)) as sandbox,
    ):
        path = sandbox.machine.socket_path
        sandbox.system_state(timeout=SETTLING_SECONDS)
        with AgentClient(connect(path), connect=lambda: connect(path)) as client:
            client.files.upload(compile_copy(Path(directory)), "/run/vsock_copy", mode=0o755)
            client.exec(f"mount -o remount,size=90% {DIRECTORY}; mount -o remount,exec /run")
            client.exec(f"systemd-run --unit=vsock-copy /run/vsock_copy {PORT} {DIRECTORY}/plain")
            transfers = Transfers(sandbox.machine, client, megabytes)
            ways = {
                "upload, plain": transfers.plain_upload,
                "upload, agent": transfers.agent_upload,
                "download, plain": transfers.plain_download,
                "download, agent": transfers.agent_download,
                "download, client": transfers.client_download,
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(rounds):
                for name, transfer in list(ways.items())[:: -1 if number % 2 else 1]:
                    found[name].append(megabytes * MIB / 1e6 / seconds(transfer, megabytes * MIB))
            peak = client.system.metrics()["agent"]["resident_peak"] / MIB
            accelerator = sandbox.machine.config.accelerator.value
    return accelerator, found, peak


def ratio(found: dict[str, list[float]], way: str, plain: str) -> float:
    """Return the median ratio of a way's rounds to the plain copy's."""
    return statistics.median(rate / other for rate, other in zip(found[way], found[plain], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path("images/output/debian-devbox.ext4")
    parser.add_argument("image", type=Path, nargs="?", default=default, help="the image to boot")
    parser.add_argument("--rounds", type=int, default=3, help="how often to do everything")
    parser.add_argument("--megabytes", type=int, default=256, help="the file's size, in MiB")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    try:
        accelerator, found, peak = measure(arguments.image, arguments.rounds, arguments.megabytes)
    except BouvetError as error:
        print(error.message, *error.details, error.hint or "", sep="\n", file=sys.stderr)
        return error.exit_code
    rates = {name: statistics.median(each) for name, each in found.items()}
    ratios = {way: ratio(found, f"{way}, agent", f"{way}, plain") for way in ("upload", "download")}
    ratios["download, client"] = ratio(found, "download, client", "download, plain")
    if arguments.json:
        document = {"accelerator": accelerator, "rounds": found, "ratios": ratios, "agent_peak_mib": peak}
        against = "plain copy through vsock"
        rows = [
            Row(way, rates[f"{way}, agent"], "MB/s", against, rates[f"{way}, plain"], "at least 0.8")
            for way in ("upload", "download")
        ]
        rows.append(Row("agent's peak of resident memory", peak, "MiB"))
        write_json(arguments.json, rows, document)
    print(f"{'MB/s (' + accelerator + ')':12} {'plain':>8} {'agent':>8} {'ratio':>7}   (aim: at least 0.8)")
    for way in ("upload", "download"):
        plain, agent = rates[f"{way}, plain"], rates[f"{way}, agent"]
        print(f"{way:12} {plain:8.1f} {agent:8.1f} {ratios[way]:7.2f}")
    client = rates["download, client"]
    print(f"download by bouvet's client: {client:.1f} MB/s, ratio {ratios['download, client']:.2f}")
    print(f"the agent's peak of resident memory: {peak:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
