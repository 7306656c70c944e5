"""`bouvet verify`: an image against what it must be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import click

from bouvet import pipeline
from bouvet.cli.options import SpecType, print_json
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
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the rows to a file as JUnit XML too.")
def command(*, image: Path, static: bool, spec: str | None, as_json: bool, junit: Path | None) -> None:
    """Check each requirement on IMAGE and show what was found.

    The exit status is 9 when a requirement is not met.
    """
    if not static:
        raise click.UsageError("without --static the image would be booted, which 'verify' cannot do yet")
    reports = [pipeline.verify_static(image, None if spec is None else load(spec))]
    rows = [row for report in reports for row in report.rows]
    failed = [row for row in rows if not row.passed]
    if junit is not None:
        _write_junit(reports, junit)
    if as_json:
        print_json(
            {"image": str(image), "passed": not failed, "rows": [pipeline.as_json(row) for row in rows]}
        )
    elif sys.stdout.isatty():
        _show_table(rows)
    else:
        _show_lines(rows)
    if failed:
        raise VerifyFailed(
            f"{image}: {len(failed)} of {len(rows)} requirements are not met",
            details=tuple(f"{row.area}: {row.requirement}: {row.found}" for row in failed),
        )
    if not as_json:
        click.echo(f"{image}: all {len(rows)} requirements are met")


def _mark(row: Row) -> str:
    return "ok" if row.passed else "FAIL"


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
