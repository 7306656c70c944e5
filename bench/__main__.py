"""Runs the benchmarks one after the other, and makes one table of what they measured.

    python bench [NAME...] [--json FILE] [--history FILE]

NAME is a script's without `.py`; all by default. Each measures what it compares in one run, interleaved. With
`--history`, the table is added to a file too, dated, with the machine, its load and the tools' versions.
A benchmark that fails makes the exit status 1, and the others are run all the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import Row, read_rows, table

import bouvet
from bouvet import process
from bouvet.errors import CommandFailed, ToolMissing

DIRECTORY = Path(__file__).parent
SHARED = {"__main__", "rows"}
"""What is no benchmark here."""

LONGEST_SECONDS = 7200.0
TOOLS = {
    "QEMU": [f"qemu-system-{platform.machine()}", "--version"],
    "mke2fs": ["mke2fs", "-V"],
    "mmdebstrap": ["mmdebstrap", "--version"],
}
"""What bouvet is compared to or runs on, and how each tells its version."""


def names() -> list[str]:
    """Return the benchmarks that there are."""
    return sorted(path.stem for path in DIRECTORY.glob("*.py") if path.stem not in SHARED)


def machine() -> dict[str, str]:
    """Return what the figures depend on; the load is that before the first benchmark."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in processors if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{os.cpu_count()} x {model or platform.machine()}",
        "memory": f"{memory / 1e9:.0f} GB",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "bouvet": bouvet.__version__,
        **{tool: version(argv) for tool, argv in TOOLS.items()},
    }


def version(argv: list[str]) -> str:
    """Return the first line that a program tells of itself."""
    try:
        done = process.run(argv)
    except (ToolMissing, CommandFailed):
        return "none"
    # mke2fs says it on standard error.
    return (done.stdout or done.stderr).decode(errors="replace").partition("\n")[0].strip()


def measure(name: str, scratch: Path) -> list[Row] | None:
    """Run a benchmark, whose own tables go to standard output; return its rows, None if it failed."""
    target = scratch / f"{name}.json"
    print(f"== {name}", flush=True)
    argv = [sys.executable, str(DIRECTORY / f"{name}.py"), "--json", str(target)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"{name} took more than {LONGEST_SECONDS:.0f} s", file=sys.stderr)
        return None
    return read_rows(target) if done.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all if not given")
    parser.add_argument("--json", type=Path, help="also write all rows, and the machine, to this file")
    parser.add_argument("--history", type=Path, help="also add the table to this file")
    arguments = parser.parse_args()
    for name in set(arguments.names) - set(names()):
        parser.error(f"there is no benchmark '{name}': choose from {', '.join(names())}")
    conditions = machine()
    with tempfile.TemporaryDirectory(prefix="bouvet-bench-") as scratch:
        found = {name: measure(name, Path(scratch)) for name in arguments.names or names()}
    rows = [(name, row) for name, measured in found.items() for row in measured or ()]
    failed = [name for name, measured in found.items() if measured is None]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [", ".join(f"{key} {value}" for key, value in conditions.items()), "", *table(rows)]
    print("\n".join(["", *lines]))
    if arguments.json:
        told = [dataclasses.asdict(row) | {"benchmark": name, "ratio": row.ratio} for name, row in rows]
        document = {"date": date, "machine": conditions, "rows": told, "failed": failed}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.history and rows:
        with arguments.history.open("a", encoding="utf-8") as history:
            history.write("\n".join(["", f"## {date}", "", *lines, ""]))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
