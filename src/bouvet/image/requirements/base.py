"""Debian and its configuration."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import urllib.parse

from passlib.hash import sha512_crypt

from bouvet.errors import FormatError
from bouvet.image.expectation import UNKNOWN_PASSWORD
from bouvet.image.guest import Finding, Guest, Requirement, none_of, shell_words

AREA = "Base"

_FSTAB = "/dev/vda / ext4 defaults 0 1"
_MAXIMUM_ROUNDS = 1_000_000
# A file of each kind that is left out, as a package installed later could bring it.
_LATER_FILES = (
    "/usr/share/doc/package/README", "/usr/share/man/man1/program.1.gz", "/usr/share/info/program.info.gz",
    "/usr/share/lintian/overrides/package",
)  # fmt: skip
_DPKG_FILE = re.compile(r"[A-Za-z0-9_-]+")  # other names dpkg does not read (dpkg(1), FILES)
_DPKG_RECORDS = "/var/lib/dpkg/info"
_MAXIMUM_PATTERN = 512
_MAXIMUM_RULES = 4096
_MAXIMUM_COMPARISONS = 5_000_000
_LOOPBACK = ("127.0.0.1", "127.0.1.1")
_CROSS_DIRECTORY = re.compile(r"/usr/[a-z0-9_]+-linux-gnu[a-z0-9]*/")
_SERIAL_PORT = "/etc/udev/rules.d/90-serial-login.rules"


def requirements() -> list[Requirement]:
    """Return the requirements of the base."""
    return [
        Requirement(AREA, "Debian 12 (bookworm)", _debian),
        Requirement(AREA, "the architecture", _architecture),
        Requirement(AREA, "every program and library is for the architecture", _code),
        Requirement(AREA, "no documentation (copyright files are legal notices)", _no_documentation),
        Requirement(AREA, "no man pages", lambda guest: _no_files(guest, "/usr/share/man")),
        Requirement(AREA, "no info pages", lambda guest: _no_files(guest, "/usr/share/info", "dir")),
        Requirement(AREA, "no lintian files", lambda guest: _no_files(guest, "/usr/share/lintian")),
        Requirement(AREA, "packages installed later bring none of these either", _exclusion_persists),
        Requirement(
            AREA, "nothing is missing of a package but what dpkg is told to leave out", _packages_complete
        ),
        Requirement(AREA, "apt's sources: bookworm with security updates, on public servers", _sources),
        Requirement(AREA, "/etc/network/interfaces: lo, and eth0 by DHCP without delay", _interfaces),
        Requirement(AREA, "no name server of the build host in /etc/resolv.conf", _no_name_server),
        Requirement(AREA, "root's home is /root and the shell /bin/bash", _root_account),
        Requirement(AREA, "root's password", _root_password),
        Requirement(AREA, "serial-getty@ttyS0 enabled in getty.target.wants", _serial_console),
        Requirement(AREA, "a login on ttyAMA0, where the machine has that port", _other_serial_console),
        *common(),
    ]


def common() -> list[Requirement]:
    """Return those that hold for every distribution."""
    return [
        Requirement(AREA, "/etc/fstab", _fstab),
        Requirement(AREA, "/etc/hostname", _hostname),
        Requirement(AREA, "/etc/hosts resolves localhost and the host name", _hosts),
        Requirement(AREA, "no machine-id baked in", _no_machine_id),
        Requirement(AREA, "no SSH host key baked in", _no_host_keys),
        Requirement(AREA, "no random seed baked in", _no_random_seed),
    ]


def _debian(guest: Guest) -> Finding:
    release = {}
    for name, value in re.findall(r"(?m)^(ID|VERSION_ID|PRETTY_NAME)=(.*)$", guest.text("/etc/os-release")):
        release[name] = " ".join(shell_words(value))
    found = release.get("PRETTY_NAME", "no PRETTY_NAME")
    return Finding((release.get("ID"), release.get("VERSION_ID")) == ("debian", "12"), found)


def _architecture(guest: Guest) -> Finding:
    found = guest.elf("/bin/bash").architecture
    expected = guest.expected.architecture
    return Finding(found in {"x86_64", "aarch64"} and expected in {None, found}, f"/bin/bash is for {found}")


def _code(guest: Guest) -> Finding:
    count, foreign = 0, []
    for path, architecture in guest.code():
        count += 1
        # Cross compilers keep their targets' libraries in directories that no program here looks into.
        if architecture != guest.architecture and not _CROSS_DIRECTORY.match(path):
            foreign.append(f"{path} is for {architecture}")
    return none_of(foreign) if foreign else Finding(count > 0, f"{count} ELF files for {guest.architecture}")


def _no_documentation(guest: Guest) -> Finding:
    files = guest.files_below("/usr/share/doc")
    # dpkg keeps symbolic links beside what it keeps; without their targets they are no documentation.
    return none_of(path for path, inode in files if inode.is_regular and not path.endswith("/copyright"))


def _no_files(guest: Guest, directory: str, index: str = "") -> Finding:
    """Find no files in a directory but an index, which lists none either."""
    return none_of(path for path, _ in guest.files_below(directory) if path != f"{directory}/{index}")


def _packages_complete(guest: Guest) -> Finding:
    """Find what dpkg has a digest of, as `dpkg --verify` does."""
    listed, missing = 0, []
    for place, _ in guest.files_below(_DPKG_RECORDS):
        for line in guest.text(place).splitlines() if place.endswith(".md5sums") else ():
            path = "/" + line.partition("  ")[2]
            listed += 1
            if not guest.exists(path):
                missing.append(path)
    rules = _path_rules(guest) if missing else []
    if len(missing) * len(rules) > _MAXIMUM_COMPARISONS:
        raise FormatError(f"{len(missing)} files of packages are missing, too many to be explained")
    unexplained = [path for path in missing if not _is_excluded(path, rules)]
    left_out = f"{listed} files, of which {len(missing)} are left out"
    return none_of(unexplained) if unexplained else Finding(listed > 0, left_out)


def _exclusion_persists(guest: Guest) -> Finding:
    rules = _path_rules(guest)
    admitted = [path for path in _LATER_FILES if not _is_excluded(path, rules)]
    return Finding(not admitted, f"dpkg would install {admitted[0]}" if admitted else f"{len(rules)} rules")


def _path_rules(guest: Guest) -> list[tuple[bool, str]]:
    """Return dpkg's path rules, in its order."""
    rules: list[tuple[bool, str]] = []
    files = [path for path, _ in guest.files_below("/etc/dpkg/dpkg.cfg.d")]
    for path in sorted(path for path in files if _DPKG_FILE.fullmatch(path.rpartition("/")[2])):
        rules += _dpkg_rules(guest.text(path))
    if len(rules) > _MAXIMUM_RULES:
        raise FormatError(f"dpkg's configuration has {len(rules)} rules, too many to be checked")
    return rules


def _is_excluded(path: str, rules: list[tuple[bool, str]]) -> bool:
    """Return whether the last rule that a path matches leaves it out (dpkg(1), `--path-exclude`)."""
    return next(
        (excluded for excluded, pattern in reversed(rules) if fnmatch.fnmatchcase(path, pattern)), False
    )


def _dpkg_rules(text: str) -> list[tuple[bool, str]]:
    """Return a configuration file's path rules: whether each excludes, and its pattern (dpkg(1))."""
    rules = []
    for line in text.splitlines():
        name, separator, pattern = line.strip().partition("=")
        if not separator:
            name, _, pattern = line.strip().partition(" ")
        if name.strip() in {"path-exclude", "path-include"}:
            if len(pattern) > _MAXIMUM_PATTERN:
                raise FormatError(f"a pattern of dpkg's configuration has {len(pattern)} characters")
            rules.append((name.strip() == "path-exclude", pattern.strip()))
    return rules


def _sources(guest: Guest) -> Finding:
    lists = [path for path, _ in guest.files_below("/etc/apt/sources.list.d") if path.endswith(".list")]
    suites, wrong = set(), []
    for path in ("/etc/apt/sources.list", *lists):
        # TYPE [OPTIONS] URI SUITE COMPONENTS (sources.list(5))
        for uri, suite in re.findall(r"(?m)^deb (?:\[[^]\n]*\] )?(\S+) (\S+)", guest.text(path)):
            suites.add(suite)
            if guest.expected.mirror is None and not _is_public(uri):
                wrong.append(uri)
    missing = {"bookworm", "bookworm-security"} - suites
    if missing or wrong:
        return Finding(False, f"missing {sorted(missing)}, not public {wrong}")
    return Finding(True, " ".join(sorted(suites)))


def _is_public(uri: str) -> bool:
    """Return whether a URI is of a server that others reach too, without a password in it."""
    try:
        parts = urllib.parse.urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host


def _fstab(guest: Guest) -> Finding:
    text = guest.text("/etc/fstab")
    return Finding(text == _FSTAB + "\n", text)


def _hostname(guest: Guest) -> Finding:
    text = guest.text("/etc/hostname")
    return Finding(text == guest.expected.hostname + "\n", text)


def _hosts(guest: Guest) -> Finding:
    addresses: dict[str, set[str]] = {}
    for line in guest.text("/etc/hosts").splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            addresses.setdefault(name, set()).add(address)
    own = addresses.get(guest.expected.hostname, set())
    passed = "127.0.0.1" in addresses.get("localhost", set()) and bool(own & set(_LOOPBACK))
    local = ", ".join(sorted(addresses.get("localhost", set()))) or "nothing"
    return Finding(passed, f"localhost: {local}; host name: {', '.join(sorted(own)) or 'nothing'}")


def _interfaces(guest: Guest) -> Finding:
    lines = [" ".join(line.split()) for line in guest.text("/etc/network/interfaces").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    # "auto eth0" would make the boot wait for a missing card or server.
    eth0 = {"allow-hotplug eth0", "iface eth0 inet dhcp"} if guest.expected.network else set()
    return Finding(set(lines) == {"auto lo", "iface lo inet loopback"} | eth0, "; ".join(lines))


def _no_name_server(guest: Guest) -> Finding:
    if not guest.exists("/etc/resolv.conf"):
        return Finding(True, "no such file")
    servers = re.findall(r"(?m)^[ \t]*nameserver[ \t].*$", guest.text("/etc/resolv.conf"))
    return Finding(not servers, "; ".join(servers) or "no name server")


def _account(guest: Guest, path: str, fields: int) -> list[str]:
    """Return root's one line of an account file."""
    lines = [line.split(":") for line in guest.text(path).splitlines() if line.startswith("root:")]
    if len(lines) != 1 or len(lines[0]) != fields:
        raise FormatError(f"{path} has {len(lines)} entries for root, or a damaged one")
    return lines[0]


def _root_account(guest: Guest) -> Finding:
    entry = _account(guest, "/etc/passwd", 7)
    home = guest.entry("/root")
    passed = entry[1:4] == ["x", "0", "0"] and entry[5:] == ["/root", "/bin/bash"]
    return Finding(passed and home is not None and home.is_directory, ":".join(entry))


def _root_password(guest: Guest) -> Finding:
    hashed, expected = _account(guest, "/etc/shadow", 9)[1], guest.expected.root_password
    if hashed.startswith(("!", "*")):
        return Finding(expected is None, "locked")
    try:
        # Before it is verified: a hostile number of rounds would take for ever.
        rounds = sha512_crypt.from_string(hashed).rounds
        if rounds > _MAXIMUM_ROUNDS:
            return Finding(False, f"a hash of {rounds} rounds")
        matches = expected is not None and (
            expected == UNKNOWN_PASSWORD or sha512_crypt.verify(expected, hashed)
        )
    except (ValueError, TypeError):
        return Finding(False, "no password" if not hashed else "no SHA-512 hash")
    if expected == UNKNOWN_PASSWORD:
        return Finding(True, "set, to what is not told")
    return Finding(matches, "set, as expected" if matches else "set, to another than expected")


def _serial_console(guest: Guest) -> Finding:
    link = guest.entry("/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service")
    if link is None or not link.is_symlink:
        return Finding(False, "no such link")
    real = guest.real_path("/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service")
    masked = guest.entry("/etc/systemd/system/serial-getty@ttyS0.service") is not None
    passed = real.endswith("/systemd/system/serial-getty@.service") and not masked
    return Finding(passed, "masked" if masked else real)


def _other_serial_console(guest: Guest) -> Finding:
    rules = [line for line in guest.text(_SERIAL_PORT).splitlines() if 'KERNEL=="ttyAMA0"' in line]
    masked = guest.entry("/etc/systemd/system/serial-getty@ttyAMA0.service") is not None
    wanted = any('ENV{SYSTEMD_WANTS}+="serial-getty@ttyAMA0.service"' in line for line in rules)
    return Finding(wanted and not masked, "masked" if masked else "; ".join(rules) or "no such rule")


def _no_machine_id(guest: Guest) -> Finding:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if guest.exists(path) and (text := guest.text(path).strip()) not in {"", "uninitialized"}:
            return Finding(False, f"{path} holds {text}")
    return Finding(True, "empty" if guest.exists("/etc/machine-id") else "no such file")


def _no_host_keys(guest: Guest) -> Finding:
    return none_of(path for path, _ in guest.files_below("/etc/ssh") if "/ssh_host_" in path)


def _no_random_seed(guest: Guest) -> Finding:
    places = (
        "/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed",
        "/boot/loader/random-seed", "/var/lib/systemd/credential.secret",
    )  # fmt: skip
    return none_of(path for path in places if guest.entry(path) is not None)
