"""How long does an image take to boot, and does it do so every time?

Boots an image again and again until its agent has answered, and prints when each step was reached: the
median, the least and the most. Every failure counts: one makes the exit status 1.

    python bench/boot.py IMAGE [--count N] [--at-once N] [--mem MIB] [--kernel KERNEL] [--json FILE]

`--at-once` boots so many machines of the one image at the same time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bouvet.booting import BootOptions, boot
from bouvet.errors import BouvetError
from bouvet.events import Event, Note
from bouvet.vm.machine import MIB, BootTimings

STEPS = {
    "kernel": "the kernel's clock begins",
    "init": "our init begins",
    "handover": "the image's init begins",
    "agent": "the agent accepts a connection",
    "answer": "the agent has answered",
}
"""The host's times of a boot, in their order."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was seen of all boots."""

    boots: list[BootTimings]
    failures: list[str]
    seconds: float

    def of(self, step: str) -> list[float]:
        """Return each boot's seconds to a step."""
        return [value for timings in self.boots if (value := getattr(timings, step)) is not None]


def boot_once(image: Path, options: BootOptions, notes: set[str]) -> BootTimings:
    """Boot the image and let its agent answer; the machine is gone afterwards."""

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.add(event.message)

    with boot(image, options, listener=listen) as sandbox:
        return sandbox.timings


def measure(image: Path, options: BootOptions, count: int, at_once: int) -> tuple[Result, set[str]]:
    boots: list[BootTimings] = []
    failures: list[str] = []
    notes: set[str] = set()
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for number, run in enumerate(
            [pool.submit(boot_once, image, options, notes) for _ in range(count)], start=1
        ):
            try:
                boots.append(run.result())
            except BouvetError as error:
                failures.append("\n    ".join([error.message, *error.details]))
                print(f"boot {number} failed: {failures[-1]}", file=sys.stderr)
    return Result(boots, failures, time.monotonic() - started), notes


def table(result: Result) -> Iterator[str]:
    yield f"{len(result.boots)} boots, {len(result.failures)} failures, {result.seconds:.0f} s in all"
    yield f"{'seconds until':32} {'median':>8} {'least':>8} {'most':>8}"
    for step, meaning in STEPS.items():
        if values := result.of(step):
            yield f"{meaning:32} {statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", type=Path, help="the image to boot")
    parser.add_argument("--count", type=int, default=5, help="how many boots")
    parser.add_argument("--at-once", type=int, default=1, help="how many machines at the same time")
    parser.add_argument("--mem", type=int, default=512, help="each machine's memory in MiB")
    parser.add_argument("--kernel", default="debian", help="the kernel to boot with")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    options = BootOptions(memory=arguments.mem * MIB, kernel=arguments.kernel)
    result, notes = measure(arguments.image, options, arguments.count, arguments.at_once)
    if arguments.json:
        arguments.json.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    print("\n".join([*sorted(notes), *table(result)]))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
