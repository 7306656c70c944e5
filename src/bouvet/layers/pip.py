"""The pip layer: Python packages in the system's Python, by its own pip."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from bouvet.errors import LayerError, LockError
from bouvet.layers import commands
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import FILES, Command
from bouvet.layers.left_files import read_left
from bouvet.layers.pins import check, taken_from
from bouvet.plan.provenance import SHA256, Artifact, Provenance

if TYPE_CHECKING:
    from pathlib import Path

    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import PipInputs
    from bouvet.plan.provenance import Locked

_CACHE = "/root/.cache/pip"
_REPORTS = "/var/cache/bouvet"
_REPORT = "report.json"
_REQUIREMENTS = "requirements.txt"
# Only since 22.2 pip tells what it installs; without that it still installs.
_INSTALL = f"""\
if pip3 install --help | grep --quiet -e --report; then set -- --report={_REPORTS}/{_REPORT} "$@"; fi
exec pip3 install "$@"
"""


def make(inputs: PipInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Install the packages below /usr/local.

    Raises:
        CommandFailed: pip could not install them.
        LayerError: There is no pip in the layers below.
        LockError: A locked package cannot be had.
    """
    if b"usr/bin/pip3" not in workshop.lower and b"usr/local/bin/pip3" not in workshop.lower:
        raise LayerError("the layers below have no pip", hint="add 'python3-pip' to the packages")
    assert workshop.below is not None
    settings = client_settings("PIP_")
    report = workshop.scratch / "report"
    report.mkdir()
    # The tree is the image's own: pip may install into it, and as root.
    options = (
        "--no-input",
        "--disable-pip-version-check",
        "--break-system-packages",
        "--root-user-action=ignore",
        f"--cache-dir={_CACHE}",
    )
    command = Command(
        argv=("sh", "-euc", _INSTALL, "sh", *options, *_wanted(inputs)),
        network=True,
        environment={**settings.environment, **dict(inputs.environment)},
        caches={_CACHE: workshop.below.cache("pip"), _REPORTS: report},
        files={**settings.files, _REQUIREMENTS: requirements(inputs.locked).encode()},
    )
    workshop.progress("installing Python packages", None)
    with taken_from(inputs.locked):
        commands.run_over_layers(command, workshop, layer)
    if inputs.locked is not None and not os.path.lexists(report / _REPORT):
        raise LockError(
            "the tree's pip does not tell what it installs", hint="pip 22.2 is the first that does"
        )
    artifacts = _installed(report / _REPORT)
    check(artifacts, inputs.locked)
    layer.provenance = Provenance(artifacts)


def requirements(locked: Locked | None) -> str:
    """Return what a lock demands as pip's requirements: with digests if nothing else may be installed."""
    if locked is None:
        return ""
    return "".join(
        f"{each.name}=={each.version}{f' --hash=sha256:{each.sha256}' if locked.complete else ''}\n"
        for each in locked.artifacts
    )


def _wanted(inputs: PipInputs) -> tuple[str, ...]:
    """Return the arguments that say what to install."""
    file = f"{FILES}/{_REQUIREMENTS}"
    if inputs.locked is None:
        return ("--", *inputs.packages)
    if inputs.locked.complete:
        return ("--no-deps", "--require-hashes", f"--requirement={file}")
    return (f"--constraint={file}", "--", *inputs.packages)


def _installed(path: Path) -> tuple[Artifact, ...]:
    """Return what pip's report says (its "Installation Report", version 1)."""
    try:
        report = json.loads(read_left(path))
        rows = [(row["metadata"], row["download_info"]["archive_info"]) for row in report["install"]]
        found = [
            Artifact(about["name"], about["version"], digest=SHA256 + archive["hashes"]["sha256"])
            for about, archive in rows
        ]
    except FileNotFoundError:  # an old pip
        return ()
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise LayerError(f"pip's report of what it installed makes no sense: {error!r}") from error
    return tuple(sorted(found))
