"""A small tree that meets every requirement of the devbox: the real files' names, with little in them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from passlib.hash import sha512_crypt

from bouvet.formats import ext4
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.image.requirements.runtimes import RUST_TOOLS
from bouvet.image.requirements.tools import PROGRAMS

MACHINES = {"x86_64": 62, "aarch64": 183}
PATH = "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLES = {"PATH": PATH, "CARGO_HOME": "/usr/local/cargo", "RUSTUP_HOME": "/usr/local/rustup"}
VERSIONS = {
    "bash": "5.2.15-2+b13", "python3": "3.11.2-1+b1", "python3-pip": "23.0.1+dfsg-1",
    "python3-venv": "3.11.2-1+b1", "cargo-web": "1.96.0+dfsg1-1~deb12u2",
    "rust-web-clippy": "1.96.0+dfsg1-1~deb12u2", "rustc-web": "1.96.0+dfsg1-1~deb12u2",
    "rustfmt-web": "1.96.0+dfsg1-1~deb12u2",
}  # fmt: skip
PACKAGES = (
    *(name for name in PROGRAMS if name != "clang"), "clang-22", "ca-certificates", "python3", "python3-pip",
    "python3-venv", "python3-dev", "python-is-python3", "cargo-web", "rust-web-clippy", "rustc-web",
    "rustfmt-web",
)  # fmt: skip

UNIT = """\
[Unit]
Description=guest agent
After=systemd-modules-load.service
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
User=root
ExecStart=/usr/local/bin/bouvet-agent
Restart=on-failure
RestartSec=2
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""


def elf(machine: int = 62, kind: int = 2, types: tuple[int, ...] = (1,)) -> bytes:
    """Return an ELF file of a header and program headers only."""
    start = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", start, kind, machine, 1, 0, 64, 0, 0, 64, 56, len(types), 0, 0, 0
    )
    return header + b"".join(struct.pack("<IIQQQQQQ", each, 0, 0, 0, 0, 0, 0, 0) for each in types)


def manifest(**changes: Any) -> dict[str, Any]:
    """Return the manifest; the changes are of its spec."""
    spec = {
        "label": "bouvet-rootfs", "free": 0, "size": None, "agent": True,
        "debian": {"packages": list(PACKAGES)}, "node": {"version": "20", "npm": "11"}, "rust": {},
        "system": {
            "hostname": "bouvet", "root_password": "root", "network": True, "path": PATH.split(":"),
            "environment": {name: value for name, value in VARIABLES.items() if name != "PATH"},
        },
    }  # fmt: skip
    return {"name": "bouvet-devbox", "architecture": "x86_64", "spec": {**spec, **changes}}


def as_file(data: object) -> bytes:
    return json.dumps(data).encode()


def status(versions: dict[str, str]) -> bytes:
    """Return dpkg's status of installed packages."""
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nDescription: none\n more: none\n"
        for name, version in versions.items()
    ).encode()


def shadow(password: str = "root", hashed: str | None = None) -> bytes:
    hashed = sha512_crypt.using(salt="salt", rounds=5000).hash(password) if hashed is None else hashed
    return f"root:{hashed}::0:99999:7:::\ndaemon:*::0:99999:7:::\n".encode()


def devbox_tree(machine: int = 62) -> FileTree:
    """Return the tree; every file of it may be replaced or removed."""
    export = "".join(f"export {name}={value}\n" for name, value in VARIABLES.items())
    default = " ".join(f'"{name}={value}"' for name, value in VARIABLES.items())
    texts = {
        "usr/lib/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n',
        "etc/dpkg/dpkg.cfg.d/90slim": "# slim\n"
        + "".join(f"path-exclude=/usr/share/{name}/*\n" for name in ("doc", "man", "info", "lintian"))
        + "path-include=/usr/share/doc/*/copyright\n",
        "etc/apt/sources.list": "deb http://mirror.example.org/debian bookworm main\n"
        "deb [arch=amd64] https://mirror.example.org/security bookworm-security main\n",
        "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
        "etc/hostname": "bouvet\n",
        "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 bouvet\n::1 localhost ip6-localhost\n",
        "etc/network/interfaces": "auto lo\niface lo inet loopback\n\n"
        "allow-hotplug eth0\niface eth0 inet dhcp\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n",
        "etc/machine-id": "",
        "var/lib/dpkg/info/base-files.md5sums": f"{'0' * 32}  usr/lib/os-release\n",
        "etc/ssh/ssh_config": "Host *\n",
        "etc/ssl/certs/ca-certificates.crt": "-----BEGIN CERTIFICATE-----\n",
        "etc/apt/apt.conf.d/90slim": '// No proxy here.\nAPT::Install-Recommends "false";\n',
        "etc/profile.d/bouvet.sh": export,
        "etc/systemd/system.conf": "[Manager]\n",
        "etc/systemd/system.conf.d/bouvet.conf": f"[Manager]\nDefaultEnvironment={default}\n",
        "etc/systemd/system/bouvet-agent.service": UNIT,
        "etc/udev/rules.d/90-serial-login.rules": 'SUBSYSTEM=="tty", KERNEL=="ttyAMA0", TAG+="systemd", '
        'ENV{SYSTEMD_WANTS}+="serial-getty@ttyAMA0.service"\n',
        "etc/modules-load.d/vsock.conf": "vsock\nvmw_vsock_virtio_transport\n",
        "usr/lib/systemd/system/serial-getty@.service": "[Unit]\n",
        "usr/lib/python3/dist-packages/pip/__init__.py": "",
        "usr/lib/python3.11/venv/__init__.py": "",
        "usr/lib/python3.11/ensurepip/__init__.py": "",
        "usr/include/python3.11/Python.h": "#define Py_PYTHON_H\n",
        "usr/include/node/node_version.h": "#define NODE_MAJOR_VERSION 20\n#define NODE_MINOR_VERSION 20\n"
        "#define NODE_PATCH_VERSION 2\n",
        "usr/lib/node_modules/npm/package.json": '{"version": "11.21.2"}',
        "usr/share/doc/bash/copyright": "GPL\n",
        "usr/share/info/dir": "no pages\n",
        "var/log/wtmp": "",
        "root/.profile": "",
    }
    links = {
        "bin": "usr/bin", "lib": "usr/lib", "etc/os-release": "../usr/lib/os-release",
        "etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service":
            "/lib/systemd/system/serial-getty@.service",
        "etc/systemd/system/multi-user.target.wants/bouvet-agent.service": "../bouvet-agent.service",
        "usr/bin/python3": "python3.11", "usr/bin/python": "python3",
        "usr/bin/npm": "../lib/node_modules/npm/bin/npm-cli.js",
        "usr/bin/npx": "../lib/node_modules/npm/bin/npx-cli.js",
        **{f"usr/local/cargo/bin/{name}": f"/usr/bin/{name}" for name in RUST_TOOLS},
    }  # fmt: skip
    programs = [
        "bash",
        "python3.11",
        "node",
        *RUST_TOOLS,
        *(one for names in PROGRAMS.values() for one in names),
    ]
    scripts = [
        "usr/bin/pip3",
        "usr/lib/node_modules/npm/bin/npm-cli.js",
        "usr/lib/node_modules/npm/bin/npx-cli.js",
    ]
    tree: FileTree = {path.encode(): regular_file(text.encode()) for path, text in texts.items()}
    tree |= {path.encode(): symlink(target.encode()) for path, target in links.items()}
    tree |= {f"usr/bin/{name}".encode(): regular_file(elf(machine), 0o755) for name in programs}
    tree |= {path.encode(): regular_file(b"#!/bin/sh\n", 0o755) for path in scripts}
    tree |= {path: directory() for path in (b"", b"root", b"tmp", b"usr/local/rustup", b"var/tmp", b"run")}
    tree[b"usr/local/bin/bouvet-agent"] = regular_file(elf(machine), 0o755)
    tree[b"etc/shadow"] = regular_file(shadow(), 0o640, gid=42)
    tree[b"var/lib/dpkg/status"] = regular_file(status(VERSIONS))
    tree[b"usr/share/bouvet/manifest.json"] = regular_file(as_file(manifest()))
    return tree


def write_image(path: Path, tree: FileTree, label: str = "bouvet-rootfs") -> Path:
    """Write a tree as an image, without a journal."""
    plan = ext4.plan_filesystem(tree, ext4.Ext4Options(label=label, journal_size=0))
    with path.open("w+b") as file:
        ext4.write_filesystem(plan, file.fileno())
    return path
