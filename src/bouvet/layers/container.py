"""The system layer of a container image: what makes its tree a guest.

Where the image's init is systemd, it gets what a Debian tree gets (`system`). Any other gets our own: the
agent is its `/sbin/init` as well, and does what a container's engine would have done (agent/supervisor.go).
A container image may have the init of busybox or sysvinit, with nothing configured for it to start: it is
replaced too.

    /etc/bouvet/service.json    what a container of the image would run, for that init
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.formats.tree import Inode, symlink
from bouvet.layers import accounts, agent, system, system_files
from bouvet.layers.paths import exists, real_directory, real_path
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.oci_steps import ContainerInputs, Service
    from bouvet.plan.steps import SystemInputs

SERVICE = b"etc/bouvet/service.json"
"""What a container of the image would run."""

INIT = b"sbin/init"
"""What a kernel starts first."""

_SYSTEMD = b"lib/systemd/systemd"
_NETWORKD = b"usr/lib/systemd/systemd-networkd"
_MOUNT_POINTS = (b"dev", b"proc", b"run", b"sys", b"root", b"var")
_UNITS = b"etc/systemd/system/"
_NETWORK = "[Match]\nName=eth0\n\n[Network]\nDHCP=yes\n"


def make(inputs: ContainerInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the guest's configuration, the service, and an init where there is none.

    Raises:
        LayerError: The spec asks for what only systemd does, or leaves the guest without any init.
        FormatError: A path of the configuration leads through a link of the image.
    """
    lower = workshop.lower
    placing = Placing(layer, lower, mtime=newest_time(lower))
    if has_systemd(lower):
        system.make(inputs.system, workshop, layer)
        if inputs.system.network and not exists(lower, "/usr/sbin/ifup") and _NETWORKD in lower:
            placing.file(b"etc/systemd/network/80-bouvet.network", _NETWORK.encode())
            placing.link(
                _UNITS + b"multi-user.target.wants/systemd-networkd.service",
                b"/lib/systemd/system/systemd-networkd.service",
            )
    else:
        _check(inputs.system)
        _configure(inputs.system, lower, layer, placing)
        init = real_path(lower, INIT)
        placing.directory(real_directory(lower, b"sbin"))
        layer.add(init, symlink(b"/" + agent.PATH, mtime=newest_time(lower)))
    _make_working_directory(inputs.service, lower, placing)
    placing.file(SERVICE, _service(inputs).encode())


def has_systemd(tree: FileTree) -> bool:
    """Return whether a tree's init is systemd."""
    place = real_path(tree, INIT)
    inode = tree.get(place)
    return inode is not None and inode.is_symlink and inode.target.endswith(_SYSTEMD)


def _check(inputs: SystemInputs) -> None:
    if not inputs.agent:
        raise LayerError(
            "the image has no init that could start it",
            hint="the guest agent is one: set agent = true",
        )
    if inputs.enable or inputs.disable:
        raise LayerError("the image has no systemd, whose units [services] enables and disables")


def _configure(inputs: SystemInputs, lower: FileTree, layer: LayerWriter, placing: Placing) -> None:
    """Add what every guest has, whatever its init."""
    texts = system_files.texts(inputs)
    for path in (b"etc/fstab", b"etc/hostname", b"etc/hosts", b"etc/environment", b"etc/profile.d/bouvet.sh"):
        placing.file(path, texts[path].encode())
    for path in _MOUNT_POINTS:
        placing.directory(path)
    if b"tmp" not in lower:
        layer.add(b"tmp", Inode(stat.S_IFDIR | stat.S_ISVTX | 0o777, mtime=newest_time(lower)))
    # The kernel comes from outside the image, and its modules with it: they are mounted below this.
    modules = real_directory(lower, b"lib/modules")
    placing.directory(modules)
    if accounts.SHADOW in lower:
        system.set_root_password(inputs, lower, layer)
    elif inputs.root_password is not None:
        raise LayerError("the image has no /etc/shadow for root's password", hint="leave it out of the spec")
    if inputs.timezone is not None:
        system.set_timezone(inputs.timezone, lower, placing)


def _make_working_directory(service: Service, lower: FileTree, placing: Placing) -> None:
    """Make the service's directory where the image leaves that to the container's engine."""
    path = b"/".join(part for part in service.directory.encode().split(b"/") if part not in {b"", b"."})
    if b".." in path.split(b"/"):
        raise LayerError(f"the image's working directory {service.directory!r} is no plain path")
    if path:
        placing.directory(real_directory(lower, path))


def _service(inputs: ContainerInputs) -> str:
    service = inputs.service
    document = {
        "arguments": [*service.entrypoint, *service.command],
        "environment": [f"{name}={value}" for name, value in _variables(inputs)],
        "user": service.user,
        "directory": service.directory or "/",
        "network": "dhcp" if inputs.system.network else "",
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _variables(inputs: ContainerInputs) -> list[tuple[str, str]]:
    """Return the service's variables: the image's own, and the spec's above them."""
    return list((dict(inputs.service.environment) | system_files.environment(inputs.system)).items())
