"""A tree that came from a container image: any distribution's, with systemd or with our own init."""

from __future__ import annotations

from bouvet.image.expectation import Expectation
from bouvet.image.guest import Finding, Guest, Requirement
from bouvet.image.requirements import agent, base
from bouvet.image.service import SERVICE, read_service

AREA = "Container image"

_MOUNT_POINTS = ("/dev", "/proc", "/sys", "/run", "/tmp")  # noqa: S108  (the guest's)
_SYSTEMD = "/systemd/systemd"


def requirements(expected: Expectation) -> list[Requirement]:
    """Return the requirements of such a tree."""
    return [
        Requirement(AREA, "an init: systemd that starts the agent, or the agent itself", _init),
        Requirement(AREA, "directories for the kernel's file systems", _mount_points),
        Requirement(AREA, "what a container would run is there, and so is its program", _service),
        *base.common(),
        *(agent.binary() if expected.agent else ()),
    ]


def not_checked(count: int) -> Requirement:
    """Return the row that says what is not required of such a tree."""

    def check(_: Guest) -> Finding:
        return Finding(True, f"{count} requirements on Debian's packages and their configuration are not")

    return Requirement(AREA, "what applies to any distribution is checked", check)


def _init(guest: Guest) -> Finding:
    real = guest.real_path("/sbin/init")
    if real == agent.PATH:
        return Finding(True, "the agent")
    if not real.endswith(_SYSTEMD):
        return Finding(False, real)
    if not guest.expected.agent:
        return Finding(True, "systemd")
    rows = [row for row in agent.requirements() if row not in agent.binary()]
    wrong = [finding.found for row in rows if not (finding := row.judge(guest)).passed]
    return Finding(not wrong, "; ".join(wrong) or f"systemd, {len(rows)} requirements on the agent's unit")


def _mount_points(guest: Guest) -> Finding:
    missing = [
        path for path in _MOUNT_POINTS if (entry := guest.entry(path)) is None or not entry.is_directory
    ]
    return Finding(not missing, ", ".join(missing or _MOUNT_POINTS))


def _service(guest: Guest) -> Finding:
    service = read_service(guest.tree)
    if service is None:
        return Finding(False, f"/{SERVICE.decode()} is missing")
    if not service.arguments:
        return Finding(True, "nothing to run")
    program = service.arguments[0]
    if "/" not in program:
        paths = [value for value in service.environment if value.startswith("PATH=")]
        directories = paths[-1].removeprefix("PATH=").split(":") if paths else list(guest.expected.path)
        found = [f"{directory}/{program}" for directory in directories[:64]]
        program = next((path for path in found if guest.exists(path)), program)
    elif not program.startswith("/"):
        program = f"{service.directory}/{program}"
    if not guest.exists(program):
        return Finding(False, f"{program} is missing")
    return Finding(True, f"{guest.executable(program)} as {service.user or 'root'}")
