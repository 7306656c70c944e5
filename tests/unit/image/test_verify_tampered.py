"""Static verification: whatever is tampered with fails its own row, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.formats.tree import regular_file
from bouvet.image.expectation import DEVBOX
from bouvet.image.requirements.runtimes import RUST_TOOLS
from bouvet.image.requirements.tools import PROGRAMS
from bouvet.image.verify import check_image, requirements
from tests.unit.image.devbox_tree import (
    PATH,
    UNIT,
    VERSIONS,
    as_file,
    devbox_tree,
    elf,
    manifest,
    shadow,
    status,
    write_image,
)
from tests.unit.image.tampering import Tamper, drop, edit, link, put


def installed(package: str, version: str | None) -> Tamper:
    changed = {name: text for name, text in {**VERSIONS, package: version}.items() if text is not None}
    return put("var/lib/dpkg/status", status(changed))


AGENT = "usr/local/bin/bouvet-agent"
SERVICE = "etc/systemd/system/bouvet-agent.service"
GETTY = "etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
WANTS = "etc/systemd/system/multi-user.target.wants/bouvet-agent.service"
SYSTEM_CONF = "etc/systemd/system.conf.d/bouvet.conf"
SLIM = "etc/dpkg/dpkg.cfg.d/90slim"
COMPLETE = "nothing is missing of a package but what dpkg is told to leave out"
MD5SUMS = "var/lib/dpkg/info/base-files.md5sums"
LATER = "packages installed later bring none of these either"
INTERFACES = "/etc/network/interfaces: lo, and eth0 by DHCP without delay"
RUST_ENVIRONMENT = "RUSTUP_HOME and CARGO_HOME, and Rust on PATH"
UNIT_ROW = "bouvet-agent.service is as it must be"
STATIC_ROW = "a static executable for the image's architecture"
AGENT_ROW = "/usr/local/bin/bouvet-agent, mode 0755, owned by root"
LOGINS, SERVICES = "the environment of login shells", "the environment of services"
MANIFEST_ROW = "tells what the image was made from"
MANIFEST = "usr/share/bouvet/manifest.json"
PASSWORD_ROW = "root's password"
DOCUMENTATION = "no documentation (copyright files are legal notices)"
NODE_ROW = "Node.js 20.x at /usr/bin/node"
NODE_VERSION = "usr/include/node/node_version.h"
RESOLV_ROW = "no name server of the build host in /etc/resolv.conf"
GETTY_ROW = "serial-getty@ttyS0 enabled in getty.target.wants"
PORT_ROW = "a login on ttyAMA0, where the machine has that port"
PORT = "etc/udev/rules.d/90-serial-login.rules"
CODE_ROW = "every program and library is for the architecture"
HOSTS_ROW = "/etc/hosts resolves localhost and the host name"
ACCOUNT_ROW = "root's home is /root and the shell /bin/bash"
SOURCES_ROW = "apt's sources: bookworm with security updates, on public servers"
SOURCES = "etc/apt/sources.list"
PROXY_ROW = "no proxy settings of the build host"

CASES: list[tuple[str, Tamper]] = [
    (MANIFEST_ROW, drop(MANIFEST)),
    (MANIFEST_ROW, put(MANIFEST, "{")),
    (MANIFEST_ROW, put(MANIFEST, "[" * 100_000)),
    (MANIFEST_ROW, put(MANIFEST, "[]")),
    (MANIFEST_ROW, put(MANIFEST, as_file({**manifest(), "architecture": "mips"}))),
    (MANIFEST_ROW, put(MANIFEST, as_file({**manifest(), "architecture": ["x86_64"]}))),
    (MANIFEST_ROW, put(MANIFEST, as_file(manifest(agent="no")))),
    (MANIFEST_ROW, put(MANIFEST, as_file(manifest(node=["20"])))),
    (MANIFEST_ROW, put(MANIFEST, as_file(manifest()) + b" " * (16 << 20))),
    (MANIFEST_ROW, link(MANIFEST, "/etc/fstab")),
    ("Debian 12 (bookworm)", edit("usr/lib/os-release", '"12"', '"13"')),
    ("Debian 12 (bookworm)", edit("usr/lib/os-release", "ID=debian", "ID=ubuntu")),
    ("Debian 12 (bookworm)", edit("usr/lib/os-release", "ID=debian", "ID='debian")),
    ("Debian 12 (bookworm)", link("etc/os-release", "os-release")),
    (DOCUMENTATION, put("usr/share/doc/bash/README", "text")),
    ("no man pages", put("usr/share/man/man1/ls.1.gz", "page")),
    ("no info pages", put("usr/share/info/sed.info.gz", "page")),
    ("no lintian files", put("usr/share/lintian/overrides/bash", "tag")),
    (LATER, edit(SLIM, "path-exclude=/usr/share/man/*\n", "")),
    (LATER, put("etc/dpkg/dpkg.cfg.d/99all", "path-include = /usr/share/doc/*\n")),
    (LATER, put("etc/dpkg/dpkg.cfg.d/99all", "path-include /usr/share/*\n")),
    (LATER, put("etc/dpkg/dpkg.cfg.d/99all", "path-include=" + "*" * 600 + "\n")),
    (LATER, put("etc/dpkg/dpkg.cfg.d/99all", "path-exclude=/nothing\n" * 5000)),
    (COMPLETE, put(MD5SUMS, f"{'0' * 32}  usr/bin/gone\n")),
    (COMPLETE, put(MD5SUMS, f"{'0' * 32}  usr/share/doc/gone/copyright\n")),
    (COMPLETE, put(MD5SUMS, f"{'0' * 32}  gone\n" * 400_000)),
    (COMPLETE, drop(MD5SUMS)),
    (SOURCES_ROW, drop(SOURCES)),
    (SOURCES_ROW, edit(SOURCES, "bookworm-security", "bookworm-updates")),
    *(
        (SOURCES_ROW, put("etc/apt/sources.list.d/local.list", f"deb {uri} bookworm main\n"))
        for uri in (
            "http://10.0.0.1/debian", "http://localhost:3142/debian", "http://[::1]/debian", "http://[/debian",
            "file:///srv/debian", "https://user:secret@mirror.example.org/debian",
        )
    ),
    ("/etc/fstab", put("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n")),
    ("/etc/fstab", put("etc/fstab", "/dev/vda / ext4 defaults 0 1\n/swap none swap\n")),
    ("/etc/fstab", drop("etc/fstab")),
    ("/etc/hostname", put("etc/hostname", "builder\n")),
    (HOSTS_ROW, put("etc/hosts", "127.0.0.1 localhost\n")),
    (HOSTS_ROW, put("etc/hosts", "127.0.1.1 bouvet\n")),
    (
        HOSTS_ROW,
        put("etc/hosts", "127.0.0.1 localhost\n10.1.2.3 bouvet # 127.0.1.1 bouvet\n"),
    ),
    (INTERFACES, edit("etc/network/interfaces", "allow-hotplug", "auto")),
    (INTERFACES, edit("etc/network/interfaces", "dhcp", "static")),
    (INTERFACES, edit("etc/network/interfaces", "auto lo\n", "")),
    (RESOLV_ROW, put("etc/resolv.conf", "nameserver 127.0.0.53\n")),
    (RESOLV_ROW, link("etc/resolv.conf", "../usr/lib/resolv")),
    (ACCOUNT_ROW, edit("etc/passwd", "/bin/bash", "/bin/sh")),
    (ACCOUNT_ROW, edit("etc/passwd", "x:0:0", "x:1:0")),
    (ACCOUNT_ROW, edit("etc/passwd", "root:x:", "root::")),
    (ACCOUNT_ROW, edit("etc/passwd", "daemon", "root")),
    (PASSWORD_ROW, put("etc/shadow", shadow("other"))),
    (PASSWORD_ROW, put("etc/shadow", shadow(hashed=""))),
    (PASSWORD_ROW, put("etc/shadow", shadow(hashed="!"))),
    (PASSWORD_ROW, put("etc/shadow", shadow(hashed="$1$salt$plain"))),
    (PASSWORD_ROW, put("etc/shadow", shadow(hashed="$6$rounds=999999999$salt$" + "a" * 86))),
    (PASSWORD_ROW, put("etc/shadow", shadow() * 2)),
    (PASSWORD_ROW, put("etc/shadow", b"root\n")),
    (PORT_ROW, drop(PORT)),
    (PORT_ROW, edit(PORT, "ttyAMA0", "ttyAMA1")),
    (PORT_ROW, link("etc/systemd/system/serial-getty@ttyAMA0.service", "/dev/null")),
    (CODE_ROW, put("opt/tool", elf(183), 0o755)),
    (CODE_ROW, put("usr/lib/libforeign.so.1", elf(183, kind=3))),
    (CODE_ROW, put("opt/tool", elf(243), 0o755)),
    (CODE_ROW, put("opt/tool", b"\x7fELF\x01\x01\x01" + elf()[7:], 0o755)),
    (GETTY_ROW, drop(GETTY)),
    (GETTY_ROW, link(GETTY, "/dev/null")),
    (GETTY_ROW, put(GETTY, "[Unit]\n")),
    (
        GETTY_ROW,
        link("etc/systemd/system/serial-getty@ttyS0.service", "/dev/null"),
    ),
    ("no machine-id baked in", put("etc/machine-id", "0123456789abcdef0123456789abcdef\n")),
    ("no machine-id baked in", put("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n")),
    ("no SSH host key baked in", put("etc/ssh/ssh_host_ed25519_key", "key")),
    ("no random seed baked in", put("var/lib/systemd/random-seed", "seed")),
    ("Python 3.11 at /usr/bin/python3", installed("python3", "3.12.1-1")),
    ("Python 3.11 at /usr/bin/python3", installed("python3", None)),
    ("Python's pip", drop("usr/bin/pip3")),
    ("Python's pip", put("usr/bin/pip3", "#!/usr/bin/python3\n", 0o644)),
    ("Python's pip", put("usr/bin/pip3", "import pip\n", 0o755)),
    ("Python's venv", drop("usr/lib/python3.11/ensurepip/__init__.py")),
    ("Python's headers", put("usr/include/python3.11/Python.h", "")),
    ("python links to python3", link("usr/bin/python", "bash")),
    ("python links to python3", put("usr/bin/python", elf(), 0o755)),
    (NODE_ROW, edit(NODE_VERSION, "MAJOR_VERSION 20", "MAJOR_VERSION 18")),
    (NODE_ROW, edit(NODE_VERSION, "MAJOR", "")),
    (NODE_ROW, put("usr/bin/node", b"", 0o755)),
    ("npm", drop("usr/bin/npm")),
    ("npx", link("usr/bin/npx", "npx")),
    ("Bash 5.2 at /bin/bash", installed("bash", "5.1-2")),
    ("a stable Rust, all of one version", installed("cargo-web", "1.63.0")),
    ("a stable Rust, all of one version", installed("rustc-web", None)),
    *((f"/usr/local/cargo/bin/{name}", drop(f"usr/bin/{name}")) for name in RUST_TOOLS),
    (RUST_ENVIRONMENT, drop("usr/local/rustup")),
    (LOGINS, edit("etc/profile.d/bouvet.sh", f"PATH={PATH}", "PATH=/usr/local/cargo/bin:/tmp")),
    (LOGINS, put("etc/profile.d/zz.sh", 'export "PATH=/usr/local/cargo/bin"\n')),
    (SERVICES, put("etc/systemd/system.conf.d/zz.conf", 'DefaultEnvironment="PATH=/usr/local/cargo/bin"\n')),
    *(
        ("clang" if package == "clang" else package, drop(f"usr/bin/{names[-1]}"))
        for package, names in PROGRAMS.items()
    ),
    ("git", put("usr/local/bin/git", "#!/bin/sh\n", 0o600)),
    ("ca-certificates", put("etc/ssl/certs/ca-certificates.crt")),
    (AGENT_ROW, put(AGENT, elf(), 0o775)),
    (AGENT_ROW, put(AGENT, elf(), 0o4755)),
    (AGENT_ROW, put(AGENT, elf(), 0o755, uid=1000)),
    (STATIC_ROW, put(AGENT, elf(types=(1, 3)), 0o755)),
    (STATIC_ROW, put(AGENT, elf(kind=3), 0o755)),
    (STATIC_ROW, put(AGENT, "#!/bin/sh\n", 0o755)),
    ("at most 3.5 MB", put(AGENT, elf() + bytes(3_500_000), 0o755)),
    (UNIT_ROW, put(f"{SERVICE}.d/other.conf", "[Service]\nExecStart=\nExecStart=/bin/true\n")),
    (UNIT_ROW, put(f"{SERVICE}.d/other.conf", "[Service]\nExecStart=/bin/true\n")),
    (UNIT_ROW, put(f"usr/lib/systemd/system/{Path(SERVICE).name}.d/a.conf", "[Service]\nRestart=no\n")),
    *(
        (UNIT_ROW, put(SERVICE, UNIT.replace(line + "\n", "")))
        for line in UNIT.splitlines()
        if "=" in line and not line.startswith(("Description", "WantedBy"))
    ),
    ("bouvet-agent.service enabled in multi-user.target.wants", drop(WANTS)),
    ("bouvet-agent.service enabled in multi-user.target.wants", link(WANTS, "/dev/null")),
    ("/etc/modules-load.d/vsock.conf", put("etc/modules-load.d/vsock.conf", "vsock\n# vmw_vsock\n")),
    ("no apt lists, packages or caches", put("var/lib/apt/lists/mirror_Packages", "")),
    ("no apt lists, packages or caches", put("var/cache/apt/archives/bash.deb", "")),
    ("no other caches", put("var/cache/man/index.db", "")),
    ("no logs", put("var/log/dpkg.log", "installed")),
    ("no temporary files", put("tmp/build", "")),
    ("no npm cache", put("usr/local/share/cache/_cacache/index-v5/00", "")),
    ("no documentation of toolchains", put("usr/lib/node_modules/npm/docs/index.html", "")),
    ("no documentation of toolchains", put("usr/local/rustup/toolchains/stable/share/doc/a.html", "")),
    (PROXY_ROW, put("etc/apt/apt.conf.d/01proxy", 'Acquire::http::Proxy "http://10.0.0.1:3142";\n')),
    (PROXY_ROW, put("etc/environment", "http_proxy=http://10.0.0.1:3128\n")),
    (PROXY_ROW, put("usr/lib/node_modules/npm/npmrc", "https-proxy=http://10.0.0.1\n")),
    ("nothing in /root but Debian's own files", put("root/.ssh/authorized_keys", "key")),
]  # fmt: skip


@pytest.mark.parametrize(("requirement", "tamper"), CASES, ids=[case[0] for case in CASES])
def test_what_is_tampered_with_fails_its_row(requirement: str, tamper: Tamper, tmp_path: Path) -> None:
    tree = devbox_tree()
    tree[b"usr/lib/resolv"] = regular_file(b"nameserver 10.0.0.1\n")
    tamper(tree)
    report = check_image(write_image(tmp_path / "image", tree))
    assert [row.requirement for row in report.failed] == [requirement], report.failed
    assert not report.passed
    assert all(row.found.isprintable() and len(row.found) <= 200 for row in report.rows)


def test_every_requirement_is_tampered_with() -> None:
    # The file system's own and the architecture's are in tests of their own.
    wanted = {row.text for row in requirements(DEVBOX) if row.area != "File system"} - {"the architecture"}
    assert wanted - {case[0] for case in CASES} == set()
