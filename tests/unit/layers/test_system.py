"""The guest's configuration files."""

from __future__ import annotations

import configparser
import shlex
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from passlib.hash import sha512_crypt

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.layers import accounts, system, system_files
from bouvet.layers.merge import is_whiteout
from bouvet.layers.writer import LayerWriter
from bouvet.plan.steps import SystemInputs
from tests.unit.layers.bench import bench

INPUTS = SystemInputs(
    hostname="bouvet",
    root_password="root",
    environment=(("CARGO_HOME", "/usr/local/cargo"), ("GREETING", 'say "hi" 100% \\ $HOME')),
    path=("/usr/local/cargo/bin", "/usr/bin"),
    network=True,
    agent=True,
)
SHADOW = b"root:*::0:99999:7:::\ndaemon:*::0:99999:7:::\nrooted:*::0:99999:7:::\n"
ETC_SHADOW = b"etc/shadow"


def debian() -> FileTree:
    shadow = regular_file(SHADOW, 0o640, gid=42, mtime=9)
    units = (b"apt-daily.timer", b"getty@.service", b"systemd-journald.service")
    return {
        b"etc": directory(),
        b"etc/systemd": directory(),
        b"etc/systemd/system": directory(),
        ETC_SHADOW: shadow,
        **{b"usr/lib/systemd/system/" + unit: regular_file(b"") for unit in units},
    }


def made(tmp_path: Path, inputs: SystemInputs = INPUTS, lower: FileTree | None = None) -> FileTree:
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    layer = LayerWriter(directory)
    system.make(inputs, bench(directory, debian() if lower is None else lower).workshop, layer)
    layer.close()
    return layer.tree


def test_an_agent_that_is_first_has_the_inits_place(tmp_path: Path) -> None:
    inputs = replace(INPUTS, agent_first=True)
    init = symlink(b"/lib/systemd/systemd")
    merged = {b"sbin": symlink(b"usr/sbin"), b"usr": directory(), b"usr/sbin": directory()}
    tree = made(tmp_path, inputs, debian() | merged | {b"usr/sbin/init": init})
    assert tree[b"usr/sbin/init"].target == b"/usr/local/bin/bouvet-agent"
    assert tree[system.REPLACED_INIT].content() == b"/lib/systemd/systemd\n"
    with pytest.raises(LayerError, match="agent_first"):
        made(tmp_path, inputs)


def test_the_files_that_every_guest_has(tmp_path: Path) -> None:
    tree = made(tmp_path)
    assert tree[b"etc/fstab"].content() == b"/dev/vda / ext4 defaults 0 1\n"
    assert tree[b"etc/hostname"].content() == b"bouvet\n"
    assert b"127.0.1.1 bouvet\n" in tree[b"etc/hosts"].content()
    assert tree[b"etc/machine-id"].content() == b""
    assert tree[b"etc/modules-load.d/vsock.conf"].content() == b"vsock\nvmw_vsock_virtio_transport\n"
    assert tree[b"etc/systemd/network/99-default.link"].target == b"/dev/null"
    getty = tree[b"etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"]
    assert getty.target == b"/lib/systemd/system/serial-getty@.service"
    assert tree[b"usr/lib/modules"].is_directory
    assert b"etc/resolv.conf" not in tree
    assert {(inode.uid, inode.mtime) for inode in tree.values()} == {(0, 9)}


def test_every_directory_that_is_not_below_is_there(tmp_path: Path) -> None:
    tree = made(tmp_path)
    everything = {b""} | set(tree) | set(debian())
    assert {path.rpartition(b"/")[0] for path in tree} <= everything


def test_a_host_name_with_a_domain_resolves_in_both_forms() -> None:
    assert "127.0.1.1 vm.example.org vm\n" in system_files.hosts("vm.example.org")


def test_the_agents_unit() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(system_files.AGENT_UNIT)
    assert unit["Unit"]["After"] == "systemd-modules-load.service"
    assert (unit["Unit"]["StartLimitIntervalSec"], unit["Unit"]["StartLimitBurst"]) == ("60", "5")
    assert dict(unit["Service"]) == {
        "Type": "simple",
        "User": "root",
        "WorkingDirectory": "/root",
        "ExecStart": "/usr/local/bin/bouvet-agent",
        "Restart": "on-failure",
        "RestartSec": "2",
        "OOMScoreAdjust": "-1000",
        "OOMPolicy": "continue",
        "Delegate": "yes",
        "TasksMax": "infinity",
        "StandardOutput": "journal+console",
        "StandardError": "journal+console",
    }


@pytest.mark.needs_tool("systemd-analyze")
def test_systemd_accepts_the_agents_unit(tmp_path: Path) -> None:
    unit = tmp_path / "bouvet-agent.service"
    # The binary must exist for the check; the unit's own is in the guest.
    unit.write_text(system_files.AGENT_UNIT.replace("/usr/local/bin/bouvet-agent", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bouvet-agent" not in done.stderr


def test_the_agent_is_enabled_only_where_it_is(tmp_path: Path) -> None:
    wants = b"etc/systemd/system/multi-user.target.wants/bouvet-agent.service"
    assert made(tmp_path)[wants].target == b"../bouvet-agent.service"
    assert not any(b"bouvet-agent" in path for path in made(tmp_path, replace(INPUTS, agent=False)))


def test_eth0_is_configured_only_with_a_network(tmp_path: Path) -> None:
    interfaces = b"etc/network/interfaces"
    assert b"allow-hotplug eth0\niface eth0 inet dhcp\n" in made(tmp_path)[interfaces].content()
    alone = made(tmp_path, replace(INPUTS, network=False))[interfaces].content()
    assert b"eth0" not in alone
    assert b"iface lo inet loopback" in alone


def test_only_units_that_exist_are_masked(tmp_path: Path) -> None:
    tree = made(tmp_path)
    assert tree[b"etc/systemd/system/apt-daily.timer"].target == b"/dev/null"
    assert tree[b"etc/systemd/system/getty@tty1.service"].target == b"/dev/null"
    assert b"etc/systemd/system/e2scrub_all.timer" not in tree


def test_a_login_shell_gets_the_variables_literally(tmp_path: Path) -> None:
    (tmp_path / "bouvet.sh").write_bytes(made(tmp_path)[b"etc/profile.d/bouvet.sh"].content())
    script = f'. {shlex.quote(str(tmp_path / "bouvet.sh"))}; printf "%s\\n" "$PATH" "$GREETING"'
    done = subprocess.run(["/bin/sh", "-euc", script], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.splitlines() == ["/usr/local/cargo/bin:/usr/bin", 'say "hi" 100% \\ $HOME']


def test_services_get_the_variables_escaped_for_systemd(tmp_path: Path) -> None:
    text = made(tmp_path)[b"etc/systemd/system.conf.d/bouvet.conf"].content().decode()
    assert text == (
        "[Manager]\n"
        'DefaultEnvironment="PATH=/usr/local/cargo/bin:/usr/bin" "CARGO_HOME=/usr/local/cargo" '
        '"GREETING=say \\"hi\\" 100%% \\\\ $HOME"\n'
    )


def test_logins_through_pam_get_the_variables(tmp_path: Path) -> None:
    lines = made(tmp_path)[b"etc/environment"].content().decode().splitlines()
    assert lines[:2] == ["PATH=/usr/local/cargo/bin:/usr/bin", "CARGO_HOME=/usr/local/cargo"]


def test_roots_password_is_set_and_nobody_elses(tmp_path: Path) -> None:
    inode = made(tmp_path)[ETC_SHADOW]
    assert (inode.mode, inode.gid) == (0o100640, 42)
    first, *rest = inode.content().splitlines(keepends=True)
    assert rest == SHADOW.splitlines(keepends=True)[1:]
    name, hashed, *dates = first.rstrip().split(b":")
    assert (name, dates) == (b"root", [b"", b"0", b"99999", b"7", b"", b"", b""])
    assert hashed.startswith(b"$6$")
    assert sha512_crypt.verify("root", hashed)
    assert not sha512_crypt.verify("toor", hashed)


def test_a_locked_root_has_no_password(tmp_path: Path) -> None:
    content = made(tmp_path, replace(INPUTS, root_password=None))[ETC_SHADOW].content()
    assert content.startswith(b"root:*:")


def test_the_salt_depends_on_the_host_name_only() -> None:
    def salt(password: str, host: str) -> str:
        return accounts.password_hash(password, host).split("$")[2]

    assert salt("a", "x") == salt("b", "x") != salt("a", "y")
    assert accounts.password_hash("a", "x") == accounts.password_hash("a", "x")


@pytest.mark.parametrize("shadow", [None, b"", b"daemon:*:::::::\n", b"root:*:\nroot:*:\n"])
def test_a_tree_without_exactly_one_root_is_refused(tmp_path: Path, shadow: bytes | None) -> None:
    lower = debian()
    del lower[ETC_SHADOW]
    if shadow is not None:
        lower[ETC_SHADOW] = regular_file(shadow)
    with pytest.raises(LayerError):
        made(tmp_path, lower=lower)


def test_the_newest_clang_gets_its_plain_name() -> None:
    paths = (b"usr/bin/clang-9", b"usr/bin/clang-22", b"usr/bin/clang++-22", b"usr/bin/clang-cpp-22")
    lower: FileTree = {path: regular_file(b"") for path in paths}
    assert system.unversioned_tools(lower) == {
        b"usr/local/bin/clang": b"/usr/bin/clang-22",
        b"usr/local/bin/clang++": b"/usr/bin/clang++-22",
    }
    lower[b"usr/bin/clang"] = regular_file(b"")
    assert b"usr/local/bin/clang" not in system.unversioned_tools(lower)


def test_a_time_zone_is_a_link_and_a_name(tmp_path: Path) -> None:
    lower = debian() | {b"usr/share/zoneinfo/Europe/Oslo": regular_file(b"TZif2")}
    tree = made(tmp_path, replace(INPUTS, timezone="Europe/Oslo"), lower)
    assert tree[b"etc/localtime"].target == b"/usr/share/zoneinfo/Europe/Oslo"
    assert tree[b"etc/timezone"].content() == b"Europe/Oslo\n"
    with pytest.raises(LayerError, match="Europe/Oslo") as caught:
        made(tmp_path, replace(INPUTS, timezone="Europe/Oslo"))
    assert "tzdata" in (caught.value.hint or "")


def test_units_are_enabled_and_disabled(tmp_path: Path) -> None:
    installed = b"[Install]\nWantedBy=multi-user.target\n"
    wants = b"etc/systemd/system/multi-user.target.wants/"
    lower = debian() | {
        b"usr/lib/systemd/system/web.service": regular_file(installed),
        b"usr/lib/systemd/system/cron.service": regular_file(installed),
        b"usr/lib/systemd/system/apt-daily.timer": regular_file(installed),
        b"usr/lib/systemd/system/multi-user.target.wants/getty.service": symlink(b"../getty.service"),
        b"usr/lib/systemd/system/getty.service": regular_file(b""),
        wants + b"cron.service": symlink(b"/lib/systemd/system/cron.service"),
    }
    inputs = replace(INPUTS, enable=("web", "apt-daily.timer"), disable=("cron", "getty"))
    tree = made(tmp_path, inputs, lower)
    assert tree[wants + b"web.service"].target == b"/usr/lib/systemd/system/web.service"
    assert tree[wants + b"apt-daily.timer"].is_symlink
    assert b"etc/systemd/system/apt-daily.timer" not in tree
    assert is_whiteout(tree[wants + b"cron.service"])
    assert tree[b"etc/systemd/system/getty.service"].target == b"/dev/null"
