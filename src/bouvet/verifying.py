"""Verifies images by booting them: joins the checks of the guest with a machine that runs it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bouvet import guest_checks
from bouvet.booting import READY_SECONDS, BootOptions, boot
from bouvet.errors import FormatError, ImageError
from bouvet.events import Listener, StepFinished, StepProgress, StepStarted, ignore
from bouvet.formats.filesystems import read_only_filesystem
from bouvet.image.expectation import Expectation
from bouvet.image.report import Report
from bouvet.image.verify import manifest_expectation
from bouvet.packing import described_manifest
from bouvet.sandbox.sandbox import NO_SYSTEMD
from bouvet.spec import Spec
from bouvet.vm.machine import DISK_GROWTH, GIB, BootTimings

PROMPT_SECONDS = 60.0
"""How long the login prompt may take once the system is running."""

REFERENCE_BUDGET = (("kernel begins", 0.05), ("image's init begins", 0.25), ("first answer", 0.5))
"""Milestones of a cold start with KVM and systemd first, in seconds: what a boot is shown beside."""


@dataclass(frozen=True, slots=True)
class GuestReport:
    """What checks in the booted guest found, and how its boot went."""

    report: Report
    timings: BootTimings

    def timing_lines(self) -> list[str]:
        """Return the first boot's milestones as a table, beside the reference budget."""
        measured = (self.timings.kernel, self.timings.handover, self.timings.answer)
        lines = [f"{'boot':22}{'measured':>12}{'budget (KVM)':>16}"]
        for (name, budget), seconds in zip(REFERENCE_BUDGET, measured, strict=True):
            shown = "not seen" if seconds is None else f"{seconds:.3f} s"
            lines.append(f"{name:22}{shown:>12}{budget:>14.3f} s")
        return lines


def verify_booted(
    image: Path, spec: Spec | None = None, *, kernel: str | None = None, listener: Listener = ignore
) -> GuestReport:
    """Boot an image, twice where its systemd gives it an identity, and check what it does.

    Args:
        image: The image.
        spec: What it was built from; what its own manifest says by default. That of a squashfs or erofs is
            not read from the image, but from the description beside it.
        kernel: The kernel's name; see `BootOptions`.
        listener: Is told of the progress.

    Raises:
        ImageError: It is a squashfs or erofs, without a spec or a description that says what it is.
        MachineError: It does not boot.
    """
    overlay = read_only_filesystem(image) is not None
    expected = _expectation(image, spec, overlay=overlay)
    disk_size = image.stat().st_size + DISK_GROWTH
    options = BootOptions(memory=GIB, cpus=2, disk=disk_size, kernel=kernel)
    with boot(image, options, listener=listener) as sandbox:
        started = time.monotonic()
        listener(StepStarted("guest", "checks in the booted guest"))
        # A container image may bring any init; systemd is what it is left to where there is one.
        systemd = not expected.container or sandbox.system_state(timeout=READY_SECONDS) != NO_SYSTEMD
        if systemd:
            rows = [guest_checks.check_state(sandbox, timeout=READY_SECONDS)]
            rows.append(guest_checks.check_login_prompt(sandbox, expected.hostname, timeout=PROMPT_SECONDS))
        else:
            rows = [guest_checks.check_own_init(sandbox)]
        rows += guest_checks.check_guest(
            sandbox,
            guest_checks.guest_checks(expected, disk_size=disk_size, overlay=overlay),
            done=lambda row, fraction: listener(StepProgress("guest", row.requirement, fraction)),
        )
        timings = sandbox.timings
        if systemd:
            first = guest_checks.machine_id(sandbox)
    if systemd:
        with boot(image, options, listener=listener) as sandbox:
            rows.append(guest_checks.compare_machine_ids(first, guest_checks.machine_id(sandbox)))
    listener(StepFinished("guest", time.monotonic() - started, f"{len(rows)} requirements checked"))
    return GuestReport(Report(str(image), tuple(rows)), timings)


def _expectation(image: Path, spec: Spec | None, *, overlay: bool) -> Expectation:
    if spec is not None:
        return Expectation.from_spec(spec.model_dump(mode="json"), None)
    if not overlay:
        return manifest_expectation(image)
    manifest = described_manifest(image) or {}
    try:
        return Expectation.from_spec(manifest["spec"], manifest["architecture"])
    except (KeyError, TypeError, AttributeError, FormatError) as error:
        raise ImageError(
            f"nothing says what {image} must be",
            hint="keep the description, which its build wrote, beside it, or give --spec",
        ) from error
