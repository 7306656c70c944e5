"""`bouvet verify`: an image against what it must be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import click

from bouvet import pipeline
from bouvet.cli.options import SpecType, print_json
from bouvet.cli.progress import progress
from bouvet.errors import ImageError, VerifyFailed
from bouvet.pipeline import Report, Row
from bouvet.spec import load


@click.command("verify")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--static", is_flag=True, help="Only read the image, do not boot it.")
@click.option(
    "--spec",
    metavar="PRESET|FILE.toml",
    type=SpecType(),
    help="What the image must be; what it says of itself if not given.",
)
@click.option(
    "--kernel",
    help="What to boot it with: debian, file:PATH or url:URL#sha256=DIGEST; what its spec says if not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the rows to a file as JUnit XML too.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def command(
    *,
    image: Path,
    static: bool,
    spec: str | None,
    kernel: str | None,
    as_json: bool,
    junit: Path | None,
    quiet: bool,
) -> None:
    """Check each requirement on IMAGE and show what was found.

    The image is read, and then booted in throw-away machines, in which real programs run. A squashfs or
    an erofs is only booted. The exit status is 9 when a requirement is not met.
    """
    expected = None if spec is None else load(spec)
    reports = []
    booted = None
    if static or pipeline.read_only_filesystem(image) is None:
        reports.append(pipeline.verify_static(image, expected))
    if not static:
        # Only a boot needs the machine room.
        from bouvet import verifying  # noqa: PLC0415

        with progress(quiet=quiet) as listener:
            booted = verifying.verify_booted(image, expected, kernel=kernel, listener=listener)
        reports.append(booted.report)
    rows = [row for report in reports for row in report.rows]
    failed = [row for row in rows if not row.passed]
    if junit is not None:
        _write_junit(reports, junit)
    if as_json:
        document = {
            "image": str(image),
            "passed": not failed,
            "rows": [pipeline.as_json(row) for row in rows],
        }
        if booted is not None:
            document["timings"] = pipeline.as_json(booted.timings)
        print_json(document)
    else:
        _show(rows)
    if booted is not None and not as_json:
        for line in booted.timing_lines():
            click.echo(line)
    if failed:
        raise VerifyFailed(
            f"{image}: {len(failed)} of {len(rows)} requirements are not met",
            details=tuple(f"{row.area}: {row.requirement}: {row.found}" for row in failed),
        )
    if not as_json:
        click.echo(f"{image}: all {len(rows)} requirements are met")


def _mark(row: Row) -> str:
    return "ok" if row.passed else "FAIL"


def _show(rows: Sequence[Row]) -> None:
    show = _show_table if sys.stdout.isatty() else _show_lines
    show(rows)


def _show_lines(rows: Sequence[Row]) -> None:
    area = max(len(row.area) for row in rows)
    requirement = max(len(row.requirement) for row in rows)
    for row in rows:
        click.echo(f"{_mark(row):4}  {row.area:{area}}  {row.requirement:{requirement}}  {row.found}")


def _show_table(rows: Sequence[Row]) -> None:
    # rich is imported where a terminal is there to be drawn on
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for title in ("", "area", "requirement", "found"):
        table.add_column(title, overflow="fold")
    for row in rows:
        mark = Text(_mark(row), style="green" if row.passed else "bold red")
        style = "" if row.passed else "red"
        table.add_row(mark, row.area, Text(row.requirement, style=style), Text(row.found, style=style))
    Console(highlight=False).print(table)


def _write_junit(reports: Sequence[Report], target: Path) -> None:
    """Write one test suite a report and one test case a row, in the form that CI systems read."""
    root = ET.Element("testsuites", name="bouvet verify")
    for report in reports:
        tests, failures = str(len(report.rows)), str(len(report.failed))
        suite = ET.SubElement(root, "testsuite", name=report.image, tests=tests, failures=failures)
        for row in report.rows:
            case = ET.SubElement(suite, "testcase", classname=row.area, name=row.requirement)
            if row.passed:
                ET.SubElement(case, "system-out").text = row.found
            else:
                ET.SubElement(case, "failure", message=row.found)
    ET.indent(root)
    try:
        target.write_bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    except OSError as error:
        raise ImageError(f"cannot write {target}: {error.strerror}") from error
