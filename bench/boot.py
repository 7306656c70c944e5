"""How long does an image take to boot, does it do so every time, and what does the early agent gain?

Boots images again and again until their agent has answered, in turn with the agent started before the
machine's init and with the agent left to its service, and prints when each step was reached: the median,
the least and the most, and the ratio of the two. Every failure counts: one makes the exit status 1.

    python bench/boot.py [IMAGE...] [--count N] [--agent-first-only] [--at-once N] [--mem MIB]
        [--kernel KERNEL] [--json FILE]

`--at-once` boots so many machines at the same time. The images are those of the presets in
`images/output` by default.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rows import Row, write_json

from bouvet.booting import BootOptions, boot
from bouvet.errors import BouvetError
from bouvet.events import Event, Note
from bouvet.vm.machine import MIB, BootTimings

IMAGES = [Path(f"images/output/debian-{preset}.ext4") for preset in ("base", "devbox")]

STEPS = {
    "kernel": "the kernel's clock begins",
    "init": "our init begins",
    "handover": "the image's init begins",
    "agent": "the agent accepts a connection",
    "answer": "the agent has answered",
}
"""The host's times of a boot, in their order."""

VARIANTS: dict[str, tuple[str, ...]] = {"agent first": (), "agent as a service": ("bouvet.early=off",)}
"""Who starts the agent, and the words of the kernel's command line that say so."""


@dataclasses.dataclass
class Result:
    """What was seen of one image's boots in one variant."""

    image: str
    variant: str
    boots: list[BootTimings] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)

    def of(self, step: str) -> list[float]:
        """Return each boot's seconds to a step."""
        return [value for timings in self.boots if (value := getattr(timings, step)) is not None]

    def guest_answer(self) -> list[float]:
        """Return each boot's seconds from the kernel's first moment to the answer."""
        return [t.answer - t.kernel for t in self.boots if t.answer is not None and t.kernel is not None]


def boot_once(image: Path, options: BootOptions, notes: set[str]) -> BootTimings:
    """Boot the image and let its agent answer; the machine is gone afterwards."""

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.add(event.message)

    with boot(image, options, listener=listen) as sandbox:
        return sandbox.timings


def measure(results: list[Result], options: BootOptions, count: int, at_once: int) -> set[str]:
    """Boot `count` times, in turn for each result, which takes what was seen."""
    notes: set[str] = set()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        runs = [
            (result, pool.submit(boot_once, Path(result.image), with_words(options, result), notes))
            for _ in range(count)
            for result in results
        ]
        for number, (result, run) in enumerate(runs, start=1):
            try:
                result.boots.append(run.result())
            except BouvetError as error:
                result.failures.append("\n    ".join([error.message, *error.details]))
                print(f"boot {number} failed: {result.failures[-1]}", file=sys.stderr)
    return notes


def with_words(options: BootOptions, result: Result) -> BootOptions:
    return dataclasses.replace(options, kernel_arguments=VARIANTS[result.variant])


def table(result: Result) -> Iterator[str]:
    yield f"{result.image}, {result.variant}: {len(result.boots)} boots, {len(result.failures)} failures"
    yield f"  {'seconds until':32} {'median':>8} {'least':>8} {'most':>8}"
    rows = [(meaning, result.of(step)) for step, meaning in STEPS.items()]
    rows.append(("answer, since the kernel began", result.guest_answer()))
    for meaning, values in rows:
        if values:
            yield f"  {meaning:32} {statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f}"


def comparison(results: list[Result]) -> Iterator[str]:
    """Yield the ratios of the first variant's medians to the second's, for each image."""
    for first, second in zip(results[::2], results[1::2], strict=True):
        if first.boots and second.boots:
            whole = statistics.median(first.of("answer")) / statistics.median(second.of("answer"))
            guest = statistics.median(first.guest_answer()) / statistics.median(second.guest_answer())
            ratios = f"{whole:.2f}, since the kernel began {guest:.2f}"
            yield f"{first.image}: {first.variant} / {second.variant}: {ratios}"


def rows(results: list[Result]) -> Iterator[Row]:
    """Yield the median time to the first answer of each image, against the second variant if that ran."""
    medians = {(r.image, r.variant): statistics.median(r.of("answer")) for r in results if r.boots}
    first, second = VARIANTS
    for (image, variant), median in medians.items():
        if variant == first:
            reference = medians.get((image, second))
            yield Row(
                f"{Path(image).stem} to the first answer, {first}",
                median,
                "s",
                second,
                reference,
                "at most 0.1",
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path, nargs="*", default=IMAGES, help="the images to boot")
    parser.add_argument("--count", type=int, default=5, help="how many boots of each")
    parser.add_argument("--at-once", type=int, default=1, help="how many machines at the same time")
    parser.add_argument("--agent-first-only", action="store_true", help="leave the comparison out")
    parser.add_argument("--mem", type=int, default=512, help="each machine's memory in MiB")
    parser.add_argument("--kernel", help="the kernel to boot with")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    options = BootOptions(memory=arguments.mem * MIB, kernel=arguments.kernel)
    variants = list(VARIANTS)[:1] if arguments.agent_first_only else list(VARIANTS)
    results = [Result(str(image), variant) for image in arguments.images for variant in variants]
    started = time.monotonic()
    notes = measure(results, options, arguments.count, arguments.at_once)
    if arguments.json:
        write_json(arguments.json, rows(results), [dataclasses.asdict(result) for result in results])
    print("\n".join([*sorted(notes), *(line for result in results for line in table(result))]))
    if not arguments.agent_first_only:
        print("\n".join(comparison(results)))
    print(f"{time.monotonic() - started:.0f} s in all")
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
