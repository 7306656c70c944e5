"""The system layer: what makes a Debian tree a guest. Its texts are in `system_files`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import accounts, agent, services, system_files
from bouvet.layers.merge import whiteout
from bouvet.layers.paths import exists, real_path
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import SystemInputs

REPLACED_INIT = b"etc/bouvet/init"
"""What names the init that the agent goes on as where it has the init's place."""

_UNITS = b"etc/systemd/system/"
_DISABLED = b"/dev/null"
"""Where a link leads that disables a unit or a configuration file of the same name."""


def make(inputs: SystemInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the guest's configuration.

    Raises:
        LayerError: The layers below are no Debian tree, or a unit or time zone is not in them.
    """
    lower = workshop.lower
    placing = Placing(layer, lower, mtime=newest_time(lower))
    for path, text in system_files.texts(inputs).items():
        placing.file(path, text.encode())
    # Empty, not missing: systemd makes an id at the first boot without treating it as an installation,
    # which would ask questions on the console and reset which units are enabled.
    placing.file(b"etc/machine-id", b"", 0o444)
    # The kernel comes from outside the image, and its modules with it: they are mounted below this.
    placing.directory(b"usr/lib/modules")
    # Interfaces keep the kernel's names, so that the first is eth0 on every bus and VMM.
    placing.link(b"etc/systemd/network/99-default.link", _DISABLED)
    _enable(placing, "serial-getty@.service", "getty.target", alias="serial-getty@ttyS0.service")
    if inputs.agent:
        placing.file(_UNITS + b"bouvet-agent.service", system_files.AGENT_UNIT.encode())
        placing.link(_UNITS + b"multi-user.target.wants/bouvet-agent.service", b"../bouvet-agent.service")
        if inputs.agent_first:
            _replace_init(lower, placing)
    for unit in system_files.MASKED_UNITS:
        template = re.sub("@.*[.]", "@.", unit)
        wanted = unit in map(services.full_name, inputs.enable)
        if b"usr/lib/systemd/system/" + template.encode() in lower and not wanted:
            placing.link(_UNITS + unit.encode(), _DISABLED)
    for name, target in unversioned_tools(lower).items():
        placing.link(name, target)
    set_root_password(inputs, lower, layer)
    if inputs.timezone is not None:
        set_timezone(inputs.timezone, lower, placing)
    _set_services(inputs, lower, layer, placing)


def _enable(placing: Placing, unit: str, target: str, *, alias: str) -> None:
    """Enable a unit as `systemctl enable` does, by a link in the target's `wants` directory."""
    path = _UNITS + f"{target}.wants/{alias}".encode()
    placing.link(path, f"/lib/systemd/system/{unit}".encode())


def _replace_init(lower: FileTree, placing: Placing) -> None:
    """Put the agent in the init's place, and note what was there: the agent goes on as that.

    A kernel starts `/sbin/init` unless its command line names another; not every monitor lets one name it.

    Raises:
        LayerError: There is no init, or it is none that has a name of its own.
    """
    place = real_path(lower, b"sbin/init")
    inode = lower.get(place)
    if inode is None or not inode.is_symlink or not inode.target.startswith(b"/"):
        raise LayerError(
            "agent_first: /sbin/init is no link to an init, so that the agent cannot take its place",
            hint="add 'systemd-sysv' to the packages",
        )
    placing.link(place, b"/" + agent.PATH)
    placing.file(REPLACED_INIT, inode.target + b"\n")


def unversioned_tools(lower: FileTree) -> dict[bytes, bytes]:
    """Return links for compilers that Debian's packages name by version only: `clang` and `clang++`.

    They go to `/usr/local/bin`, which no package touches.
    """
    links = {}
    for name in (b"clang", b"clang++"):
        pattern = re.compile(rb"usr/bin/" + re.escape(name) + rb"-(\d+)")
        versions = [(int(found[1]), path) for path in lower if (found := pattern.fullmatch(path))]
        if versions and b"usr/bin/" + name not in lower:
            links[b"usr/local/bin/" + name] = b"/" + max(versions)[1]
    return links


def _set_services(inputs: SystemInputs, lower: FileTree, layer: LayerWriter, placing: Placing) -> None:
    """Enable and disable units; what the user enables is not among those that every guest masks."""
    for unit in inputs.enable:
        for path, target in services.links_to_enable(lower, unit).items():
            placing.link(path, target)
    for unit in inputs.disable:
        for path in services.links_to_remove(lower, unit):
            layer.add(path, whiteout())
        if services.starts_anyway(lower, unit):
            placing.link(_UNITS + services.full_name(unit).encode(), services.MASK)


def set_timezone(name: str, lower: FileTree, placing: Placing) -> None:
    """Set the local time's zone as systemd has it (localtime(5)), and as Debian's packages read it."""
    zone = f"/usr/share/zoneinfo/{name}"
    if not exists(lower, zone):
        raise LayerError(
            f"the time zone {name} is not in the image",
            hint="add 'tzdata' to the packages, or check the name",
        )
    placing.link(b"etc/localtime", zone.encode())
    placing.file(b"etc/timezone", name.encode() + b"\n")


def set_root_password(inputs: SystemInputs, lower: FileTree, layer: LayerWriter) -> None:
    """Set the root password's hash, or lock the account."""
    shadow = accounts.content(lower, accounts.SHADOW)
    hashed = "*"
    if inputs.root_password is not None:
        hashed = accounts.password_hash(inputs.root_password, inputs.hostname)
    text, count = re.subn(rb"(?m)^root:[^:]*:", f"root:{hashed}:".encode(), shadow)
    if count != 1:
        raise LayerError(f"/etc/shadow has {count} entries for root")
    layer.add(accounts.SHADOW, accounts.edited(lower, accounts.SHADOW, text))
