"""The texts of the guest's configuration files, and the units that it does without."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bouvet.plan.steps import SystemInputs

# A command that takes all memory is killed by the kernel, and neither the agent nor what else it runs:
# the score spares the agent, which does not pass it on, and by default systemd would stop the service.
# Each command gets a control group of its own below the service's, which is the agent's to divide; it
# limits how many processes a group has, so that of what systemd would grant all together it needs no share.
AGENT_UNIT = """\
[Unit]
Description=bouvet guest agent
After=systemd-modules-load.service
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
User=root
WorkingDirectory=/root
ExecStart=/usr/local/bin/bouvet-agent
Restart=on-failure
RestartSec=2
OOMScoreAdjust=-1000
OOMPolicy=continue
Delegate=yes
TasksMax=infinity
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""

MASKED_UNITS = {
    "apt-daily.timer": "its update would hold dpkg's lock while someone installs a package",
    "apt-daily-upgrade.timer": "an image is replaced, not upgraded behind its user's back",
    "e2scrub_all.timer": "it checks file systems on LVM volumes, which the guest has none of",
    "e2scrub_reap.service": "it tidies up after e2scrub at every boot",
    "getty@tty1.service": "a microVM has no screen; the console is the serial line",
    "getty-static.service": "it starts five more logins on screens where there is no logind",
}
"""Units that cannot do anything useful in the guest, and why."""

_FSTAB = "/dev/vda / ext4 defaults 0 1\n"

_INTERFACES = """\
auto lo
iface lo inet loopback
"""
# "allow-hotplug" lets udev bring the interface up beside the boot: without an interface nothing
# happens, and without an answer the DHCP client goes on trying in the background.
_ETH0 = """\

allow-hotplug eth0
iface eth0 inet dhcp
"""

_MODULES = """\
vsock
vmw_vsock_virtio_transport
"""
# A kernel may have these built in, and the image may hold no modules for the kernel that boots it.
_MODULES_LOAD = """\
# The kernel may have what is listed built in, and no modules here: that is not a failure.
[Service]
SuccessExitStatus=1
"""

# QEMU's machines for aarch64 have this port, Firecracker's have ttyS0. Wanted by the device and not by
# getty.target: a boot does not wait for a port that is not there.
_SERIAL_LOGIN = """\
SUBSYSTEM=="tty", KERNEL=="ttyAMA0", TAG+="systemd", ENV{SYSTEMD_WANTS}+="serial-getty@ttyAMA0.service"
"""

_JOURNAL = """\
# The guest is ephemeral: its journal stays in memory and costs no disk writes.
[Journal]
Storage=volatile
RuntimeMaxUse=16M
"""


def texts(inputs: SystemInputs) -> dict[bytes, str]:
    """Return each file's path and text."""
    variables = environment(inputs)
    return {
        b"etc/fstab": _FSTAB,
        b"etc/hostname": inputs.hostname + "\n",
        b"etc/hosts": hosts(inputs.hostname),
        b"etc/network/interfaces": _INTERFACES + (_ETH0 if inputs.network else ""),
        b"etc/modules-load.d/vsock.conf": _MODULES,
        b"etc/systemd/system/systemd-modules-load.service.d/bouvet.conf": _MODULES_LOAD,
        b"etc/systemd/journald.conf.d/bouvet.conf": _JOURNAL,
        b"etc/udev/rules.d/90-serial-login.rules": _SERIAL_LOGIN,
        # The same variables for logins through PAM, for login shells, and for services and the agent.
        b"etc/environment": "".join(f"{name}={value}\n" for name, value in variables.items()),
        b"etc/profile.d/bouvet.sh": profile(variables),
        b"etc/systemd/system.conf.d/bouvet.conf": manager_settings(variables),
    }


def environment(inputs: SystemInputs) -> dict[str, str]:
    """Return the guest's variables, PATH first."""
    return {"PATH": ":".join(inputs.path), **dict(inputs.environment)}


def hosts(name: str) -> str:
    """Return `/etc/hosts` for a host name."""
    names = name if "." not in name else f"{name} {name.partition('.')[0]}"
    return (
        "127.0.0.1 localhost\n"
        f"127.0.1.1 {names}\n"
        "::1 localhost ip6-localhost ip6-loopback\n"
        "ff02::1 ip6-allnodes\n"
        "ff02::2 ip6-allrouters\n"
    )


def profile(variables: dict[str, str]) -> str:
    """Return a script for login shells that sets variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def manager_settings(variables: dict[str, str]) -> str:
    """Return systemd's settings that give every service the variables (systemd-system.conf(5))."""
    quoted = (f"{name}={value}" for name, value in variables.items())
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") for text in quoted)
    return "[Manager]\nDefaultEnvironment=" + " ".join(f'"{text}"' for text in quoted) + "\n"
