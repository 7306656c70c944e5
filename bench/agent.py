"""What does the agent cost: its size, its start, and each command beyond a bare fork and exec?

- The binaries' sizes.
- The start: from the process's start to its socket's first answer, on this host over a Unix socket.
- `exec true`: asked for through the machine's vsock, against a loop in the same guest that forks, executes
  the same shell and waits. The two take turns.

    python bench/agent.py [IMAGE] [--count N] [--json FILE]

IMAGE is `images/output/debian-base.ext4` by default. It needs gcc.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Row, write_json

from bouvet import process
from bouvet.booting import BootOptions, boot
from bouvet.errors import BouvetError
from bouvet.layers.agent import binary
from bouvet.plan import ARCHITECTURES, host_architecture
from bouvet.sandbox import AgentClient

STARTS = 50
ROUNDS = 10
SETTLING_SECONDS = 300.0
LOOP = "/tmp/fork_loop"


def starts() -> list[float]:
    """Start the agent again and again, and return the seconds until each said that it listens."""
    seconds = []
    with tempfile.TemporaryDirectory(prefix="bouvet-bench-") as name:
        agent, address = Path(name) / "agent", Path(name) / "socket"
        agent.write_bytes(binary(host_architecture()))
        agent.chmod(0o700)
        for _ in range(STARTS):
            began = time.perf_counter()
            argv = [str(agent), "--listen", f"unix:{address}"]
            with process.start(argv, stdout=subprocess.DEVNULL) as child:
                assert child.stderr is not None
                if not child.stderr.readline():
                    raise SystemExit("the agent does not start on this host")
                seconds.append(time.perf_counter() - began)
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(address))
                process.stop(child)
    return seconds


def compile_loop(directory: Path) -> Path:
    program = directory / "fork_loop"
    source = Path(__file__).with_name("fork_loop.c")
    process.run(["gcc", "-O2", "-static", "-o", str(program), str(source)])
    return program


def commands(image: Path, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each `exec true`, and of each turn of the bare loop, in one guest."""
    asked: list[float] = []
    bare: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bouvet-bench-") as name,
        boot(image, BootOptions()) as sandbox,
    ):
        sandbox.system_state(timeout=SETTLING_SECONDS)
        sandbox.client.files.upload(compile_loop(Path(name)), LOOP, mode=0o755)
        for _ in range(ROUNDS):
            asked += [timed(sandbox.client) for _ in range(count // ROUNDS)]
            result = sandbox.run(f"{LOOP} {count // ROUNDS}", timeout=SETTLING_SECONDS)
            bare += [int(line) / 1e9 for line in result.stdout.split()]
    return asked, bare


def timed(client: AgentClient) -> float:
    began = time.perf_counter()
    client.exec("true")
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path("images/output/debian-base.ext4")
    parser.add_argument("image", type=Path, nargs="?", default=default, help="the image to boot")
    parser.add_argument("--count", type=int, default=1000, help="how many commands")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    sizes = {architecture: len(binary(architecture)) for architecture in ARCHITECTURES}
    start = statistics.median(starts())
    try:
        asked, bare = (statistics.median(seconds) for seconds in commands(arguments.image, arguments.count))
    except BouvetError as error:
        print(error.message, *error.details, error.hint or "", sep="\n", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        rows = [
            *(Row(f"binary for {name}", size / 1e6, "MB", aim="about 3 MB") for name, size in sizes.items()),
            Row("start to listening", 1000 * start, "ms"),
            Row("exec true", 1000 * asked, "ms", "fork, exec and wait", 1000 * bare, "at most 1.5"),
        ]
        found = {"bytes": sizes, "start": start, "exec_true": asked, "fork_and_exec": bare}
        write_json(arguments.json, rows, found)
    for architecture, size in sizes.items():
        print(f"{'binary for ' + architecture:32} {size / 1e6:8.2f} MB")
    print(f"{'start to listening':32} {1000 * start:8.2f} ms")
    print(f"{'exec true, by the agent':32} {1000 * asked:8.2f} ms")
    print(f"{'fork, exec and wait, bare':32} {1000 * bare:8.2f} ms")
    print(f"{'ratio (aim: at most 1.5)':32} {asked / bare:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
