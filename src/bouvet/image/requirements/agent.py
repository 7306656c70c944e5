"""The guest agent and its unit."""

from __future__ import annotations

import stat

from bouvet.formats.elf import EXECUTABLE
from bouvet.image.guest import Finding, Guest, Requirement

AREA = "Guest agent"

PATH = "/usr/local/bin/bouvet-agent"
MAXIMUM_SIZE = 3_500_000
"""Bytes: about 3 MB."""

_UNIT = "/etc/systemd/system/bouvet-agent.service"
_LINK = "/etc/systemd/system/multi-user.target.wants/bouvet-agent.service"
_KEYS = {
    ("Unit", "StartLimitIntervalSec"): "60",
    ("Unit", "StartLimitBurst"): "5",
    ("Service", "Type"): "simple",
    ("Service", "User"): "root",
    ("Service", "ExecStart"): PATH,
    ("Service", "Restart"): "on-failure",
    ("Service", "RestartSec"): "2",
    ("Service", "StandardOutput"): "journal+console",
    ("Service", "StandardError"): "journal+console",
}
_AFTER = "systemd-modules-load.service"
_MODULES = ["vsock", "vmw_vsock_virtio_transport"]


def requirements() -> list[Requirement]:
    """Return the requirements of the agent in a Debian tree, where it is a service of systemd."""
    return [
        *binary(),
        Requirement(AREA, "bouvet-agent.service is as it must be", _unit),
        Requirement(AREA, "bouvet-agent.service enabled in multi-user.target.wants", _enabled),
        Requirement(AREA, "/etc/modules-load.d/vsock.conf", _modules),
    ]


def binary() -> list[Requirement]:
    """Return the requirements of the agent's program, whatever starts it."""
    return [
        Requirement(AREA, f"{PATH}, mode 0755, owned by root", _file),
        Requirement(AREA, "a static executable for the image's architecture", _static),
        Requirement(AREA, f"at most {MAXIMUM_SIZE / 1e6} MB", _size),
    ]


def _file(guest: Guest) -> Finding:
    inode = guest.entry(PATH)
    if inode is None:
        return Finding(False, f"{PATH} is missing")
    passed = inode.mode == stat.S_IFREG | 0o755 and (inode.uid, inode.gid) == (0, 0)
    return Finding(passed, f"{stat.filemode(inode.mode)}, owner {inode.uid}:{inode.gid}")


def _static(guest: Guest) -> Finding:
    elf = guest.elf(PATH)
    passed = elf.type == EXECUTABLE and elf.is_static and elf.architecture == guest.architecture
    linked = "static" if elf.is_static else "dynamically linked"
    return Finding(passed, f"{linked}, type {elf.type}, for {elf.architecture}")


def _size(guest: Guest) -> Finding:
    size = guest.file(PATH).size
    return Finding(0 < size <= MAXIMUM_SIZE, f"{size} bytes")


def _unit(guest: Guest) -> Finding:
    drop_ins = sorted(
        path
        for root in ("/etc", "/usr/lib")
        for path, _ in guest.files_below(f"{root}/systemd/system/bouvet-agent.service.d")
        if path.endswith(".conf")
    )
    settings: dict[tuple[str, str], list[str]] = {}
    for path in (_UNIT, *drop_ins):
        _read_unit(guest.text(path), settings)
    wrong = []
    for key, value in _KEYS.items():
        found = settings.get(key, [])
        if [text.removesuffix("s") if value.isdigit() else text for text in found[-1:]] != [value] or (
            key[1] == "ExecStart" and len(found) > 1
        ):
            wrong.append(f"{key[1]}={' '.join(found) or '(not set)'}")
    after = " ".join(settings.get(("Unit", "After"), [])).split()
    if _AFTER not in after:
        wrong.append(f"After={' '.join(after) or '(not set)'}")
    return Finding(not wrong, "; ".join(wrong) or f"{len(_KEYS) + 1} settings")


def _read_unit(text: str, settings: dict[tuple[str, str], list[str]]) -> None:
    """Add a unit file's settings (systemd.syntax(7)); an empty one takes back those before it."""
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1]
        elif stripped and stripped[0] not in "#;":
            name, _, value = (part.strip() for part in stripped.partition("="))
            values = settings.setdefault((section, name), [])
            if value:
                values.append(value)
            else:
                values.clear()


def _enabled(guest: Guest) -> Finding:
    link = guest.entry(_LINK)
    if link is None or not link.is_symlink:
        return Finding(False, f"{_LINK} is missing")
    real = guest.real_path(_LINK)
    return Finding(real == _UNIT, real)


def _modules(guest: Guest) -> Finding:
    lines = [line.strip() for line in guest.text("/etc/modules-load.d/vsock.conf").splitlines()]
    modules = [line for line in lines if line and line[0] not in "#;"]
    return Finding(sorted(modules) == sorted(_MODULES), " ".join(modules))
