"""The tools that a user finds on PATH."""

from __future__ import annotations

import functools
import re

from bouvet.image.expectation import Expectation
from bouvet.image.guest import Finding, Guest, Requirement

AREA = "Tools"

PROGRAMS = {
    "build-essential": ("gcc", "g++", "make", "dpkg-buildpackage"),
    "pkg-config": ("pkg-config",),
    "cmake": ("cmake",),
    "clang": ("clang", "clang++"),
    "curl": ("curl",),
    "wget": ("wget",),
    "openssh-client": ("ssh", "scp", "ssh-keygen"),
    "iproute2": ("ip", "ss"),
    "iputils-ping": ("ping",),
    "dnsutils": ("dig", "nslookup"),
    "ifupdown": ("ifup", "ifdown"),
    "isc-dhcp-client": ("dhclient", "dhclient-script"),
    "git": ("git",),
    "vim": ("vim",),
    "nano": ("nano",),
    "less": ("less",),
    "tree": ("tree",),
    "htop": ("htop",),
    "jq": ("jq",),
    "rsync": ("rsync",),
    "shellcheck": ("shellcheck",),
    "strace": ("strace",),
    "gdb": ("gdb",),
    "zip": ("zip",),
    "unzip": ("unzip",),
    "xz-utils": ("xz",),
}
"""Debian's packages and the programs that each must bring."""

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def requirements(expected: Expectation) -> list[Requirement]:
    """Return the requirements of the tools whose packages are expected."""
    # clang-22 is clang too.
    packages = {"clang" if re.fullmatch(r"clang-\d+", name) else name for name in expected.packages}
    rows = [
        Requirement(AREA, package, functools.partial(_programs, names=names))
        for package, names in PROGRAMS.items()
        if package in packages
    ]
    if "ca-certificates" in packages:
        rows.append(Requirement(AREA, "ca-certificates", _certificates))
    return rows


def _programs(guest: Guest, *, names: tuple[str, ...]) -> Finding:
    return Finding(True, ", ".join(guest.program(name) for name in names))


def _certificates(guest: Guest) -> Finding:
    count = guest.text(_CERTIFICATES).count("-----BEGIN CERTIFICATE-----")
    return Finding(count > 0, f"{count} certificates")
