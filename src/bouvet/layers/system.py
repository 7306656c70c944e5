"""The system layer: what makes a Debian tree a guest. Its texts are in `system_files`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from passlib.hash import sha512_crypt

from bouvet.errors import LayerError
from bouvet.formats.tree import MemorySource, Segment
from bouvet.layers import system_files
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import SystemInputs

_UNITS = b"etc/systemd/system/"
_DISABLED = b"/dev/null"
"""Where a link leads that disables a unit or a configuration file of the same name."""


def make(inputs: SystemInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Add the guest's configuration.

    Raises:
        LayerError: The layers below are no Debian tree.
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
    for unit in system_files.MASKED_UNITS:
        template = re.sub("@.*[.]", "@.", unit)
        if b"usr/lib/systemd/system/" + template.encode() in lower:
            placing.link(_UNITS + unit.encode(), _DISABLED)
    for name, target in unversioned_tools(lower).items():
        placing.link(name, target)
    _set_root_password(inputs, lower, layer)


def _enable(placing: Placing, unit: str, target: str, *, alias: str) -> None:
    """Enable a unit as `systemctl enable` does, by a link in the target's `wants` directory."""
    path = _UNITS + f"{target}.wants/{alias}".encode()
    placing.link(path, f"/lib/systemd/system/{unit}".encode())


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


def password_hash(password: str, salt_source: str) -> str:
    """Return the SHA-512 `crypt` hash of a password, with a salt that depends on `salt_source` only.

    The same spec must give the same image, so the salt is not random; and it does not depend on the
    password, because a fast digest of the password would be easier to reverse than its slow hash.
    """
    salt = hashlib.sha256(f"bouvet:{salt_source}".encode()).hexdigest()[:16]
    hashed: str = sha512_crypt.using(salt=salt, rounds=5000).hash(password)
    return hashed


def _set_root_password(inputs: SystemInputs, lower: FileTree, layer: LayerWriter) -> None:
    shadow = lower.get(b"etc/shadow")
    if shadow is None:
        raise LayerError("the layers below have no /etc/shadow", hint="the spec needs Debian's base packages")
    hashed = "*" if inputs.root_password is None else password_hash(inputs.root_password, inputs.hostname)
    content, count = re.subn(rb"(?m)^root:[^:]*:", f"root:{hashed}:".encode(), shadow.content())
    if count != 1:
        raise LayerError(f"/etc/shadow has {count} entries for root")
    segments = (Segment(0, len(content), MemorySource(content), 0),)
    layer.add(b"etc/shadow", replace(shadow, size=len(content), segments=segments))
