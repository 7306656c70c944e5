"""How fast does a guest's agent answer through vsock, and how much of that is the machine's doing?

The same client asks the same agent in a guest, through the machine's vsock, and on this host, through a
Unix socket: what is between the two is the virtual machine and its vsock backend. Each round does, on one
after the other:

- `ping` and `exec true`, one by one: the round trip;
- 64 MB through `write_file` and `read_file`, in pieces of 8 MB, kept in memory on both sides;
- `ping` by 64 clients at once, each with a connection of its own.

    python bench/vsock.py [IMAGE] [--rounds N] [--json FILE]

IMAGE is `images/output/debian-devbox.ext4` by default; any image whose agent answers will do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import Row, write_json

from bouvet import process
from bouvet.booting import BootOptions, boot
from bouvet.errors import BouvetError
from bouvet.layers.agent import binary
from bouvet.plan import host_architecture
from bouvet.sandbox import AgentClient, connect
from bouvet.vm.machine import MIB

PINGS = 1000
EXECS = 50
PIECES = 8
PIECE_BYTES = 8_000_000
CLIENTS = 64
PINGS_A_CLIENT = 20
SETTLING_SECONDS = 300.0

SHARED_MEMORY = "/dev/shm/bouvet-bench"


@dataclass(frozen=True)
class Target:
    """An agent, and where it keeps files in memory."""

    socket_path: Path
    directory: str

    def client(self) -> AgentClient:
        """Return a client over a connection of its own."""
        return AgentClient(connect(self.socket_path))


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def ping(target: Target) -> list[float]:
    with target.client() as client:
        return [timed(client.ping) for _ in range(PINGS)]


def exec_true(target: Target) -> list[float]:
    with target.client() as client:
        return [timed(lambda: client.exec("true")) for _ in range(EXECS)]


def write_files(target: Target) -> list[float]:
    content = random.Random(0).randbytes(PIECE_BYTES // 2).hex()
    with target.client() as client:
        return [
            timed(lambda path=f"{target.directory}/{number}": client.write_file(path, content))  # type: ignore[misc]
            for number in range(PIECES)
        ]


def read_files(target: Target) -> list[float]:
    with target.client() as client:
        return [
            timed(lambda path=f"{target.directory}/{number}": client.read_file(path))  # type: ignore[misc]
            for number in range(PIECES)
        ]


def many_clients(target: Target) -> list[float]:
    seconds: list[float] = []
    together = threading.Barrier(CLIENTS)

    def work() -> None:
        with target.client() as client:
            together.wait()
            seconds.extend([timed(client.ping) for _ in range(PINGS_A_CLIENT)])

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) != CLIENTS * PINGS_A_CLIENT:
        raise SystemExit("a client failed")
    return seconds


WORKLOADS: dict[str, Callable[[Target], list[float]]] = {
    "ping": ping,
    "exec true": exec_true,
    "write_file 8 MB": write_files,
    "read_file 8 MB": read_files,
    f"ping, {CLIENTS} clients": many_clients,
}


@contextlib.contextmanager
def guest(image: Path) -> Iterator[tuple[Target, str]]:
    """Boot an image, and wait until nothing else goes on in it; yield it and how it is run."""
    with boot(image, BootOptions(memory=1024 * MIB)) as sandbox:
        sandbox.system_state(timeout=SETTLING_SECONDS)
        yield Target(sandbox.machine.socket_path, SHARED_MEMORY), sandbox.machine.config.accelerator.value


@contextlib.contextmanager
def host() -> Iterator[Target]:
    """Start the agent on this host."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bouvet-bench-")))
        files = stack.enter_context(tempfile.TemporaryDirectory(dir=Path(SHARED_MEMORY).parent))
        agent = work / "agent"
        agent.write_bytes(binary(host_architecture()))
        agent.chmod(0o700)
        address = work / "agent.sock"
        child = stack.enter_context(
            process.start([str(agent), "--listen", f"unix:{address}"], stdout=subprocess.DEVNULL)
        )
        assert child.stderr is not None
        # It says so when it listens.
        if not child.stderr.readline():
            raise SystemExit("the agent does not start on this host")
        yield Target(address, files)


@dataclass(frozen=True)
class Figures:
    """Seconds that one kind of request took."""

    median: float
    percentile_99: float
    count: int


def figures(seconds: list[float]) -> Figures:
    ordered = sorted(seconds)
    return Figures(statistics.median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1], len(ordered))


def measure(targets: dict[str, Target], rounds: int) -> dict[str, dict[str, Figures]]:
    seconds: dict[str, dict[str, list[float]]] = {
        name: {target: [] for target in targets} for name in WORKLOADS
    }
    for _ in range(rounds):
        for name, workload in WORKLOADS.items():
            for label, target in targets.items():
                seconds[name][label] += workload(target)
    return {
        name: {label: figures(values) for label, values in found.items()} for name, found in seconds.items()
    }


def table(results: dict[str, dict[str, Figures]], accelerator: str) -> Iterator[str]:
    yield f"{'milliseconds (' + accelerator + ')':20} {'guest':>17} {'host':>17}"
    yield f"{'':20} {'median':>8} {'99 %':>8} {'median':>8} {'99 %':>8} {'ratio':>7}"
    for name, found in results.items():
        cells = [
            f"{1000 * value:8.3f}"
            for label in ("guest", "host")
            for value in (found[label].median, found[label].percentile_99)
        ]
        ratio = found["guest"].median / found["host"].median
        line = f"{name:20} {' '.join(cells)} {ratio:7.1f}"
        if "8 MB" in name:
            line += f"   {PIECE_BYTES / found['guest'].median / 1e6:.0f} MB/s"
        yield line


def fail(error: BouvetError) -> int:
    print(error.message, *error.details, error.hint or "", sep="\n", file=sys.stderr)
    return error.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path("images/output/debian-devbox.ext4")
    parser.add_argument("image", type=Path, nargs="?", default=default, help="the image to boot")
    parser.add_argument("--rounds", type=int, default=3, help="how often to do everything")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    try:
        with guest(arguments.image) as (inside, accelerator), host() as outside:
            results = measure({"guest": inside, "host": outside}, arguments.rounds)
    except BouvetError as error:
        return fail(error)
    if arguments.json:
        document = {
            "accelerator": accelerator,
            "piece_bytes": PIECE_BYTES,
            "seconds": {
                name: {label: dataclasses.asdict(value) for label, value in found.items()}
                for name, found in results.items()
            },
        }
        rows = [
            Row(
                name,
                1000 * found["guest"].median,
                "ms",
                "Unix socket of the host",
                1000 * found["host"].median,
            )
            for name, found in results.items()
        ]
        write_json(arguments.json, rows, document)
    print("\n".join(table(results, accelerator)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
