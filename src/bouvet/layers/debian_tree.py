"""Which of mmdebstrap's files stay, and what time they get: the same packages give the same bytes.

Two builds of the same packages, by root and by an ordinary user, were compared file by file: they
differ in the logs, apt's lists and archives, the machine id, the linker's auxiliary cache, and in the
times of what the build itself wrote. The rules below remove exactly these, together with copies of the
build host's own files. Passwords' dates are settled by a hook in `debian`, because they need the file's
content.
"""

from __future__ import annotations

from bouvet.formats.tree import Inode

_COPIES = frozenset({b"etc/hostname", b"etc/resolv.conf"})
"""Copies of the build host's own files."""

# Identities that must be made at the first boot, and logs of the build.
_DROPPED = frozenset(
    {
        b"etc/machine-id",
        b"var/lib/dbus/machine-id",
        b"var/lib/systemd/random-seed",
        b"var/lib/systemd/credential.secret",
        # What the tools wrote before their last change; no program reads them.
        b"etc/group-",
        b"etc/gshadow-",
        b"etc/passwd-",
        b"etc/shadow-",
        b"etc/subgid-",
        b"etc/subuid-",
        b"var/cache/debconf/config.dat-old",
        b"var/cache/debconf/templates.dat-old",
        b"var/lib/dpkg/available-old",
        b"var/lib/dpkg/diversions-old",
        b"var/lib/dpkg/statoverride-old",
        b"var/lib/dpkg/status-old",
    }
)

# Directories that stay, empty: file systems are mounted there, or their owner fills them again. apt's
# also have another owner when an ordinary user builds, because apt cannot drop its privileges then.
_EMPTIED = (
    b"dev/",
    b"proc/",
    b"run/",
    b"sys/",
    b"tmp/",
    b"var/tmp/",
    b"var/cache/apt/",
    b"var/cache/ldconfig/",
    b"var/lib/apt/lists/",
)
_LOGS = b"var/log/"
# Empty until someone logs in; they stay for their owner and mode, which no program would restore.
_LOGIN_RECORDS = frozenset({b"var/log/btmp", b"var/log/faillog", b"var/log/lastlog", b"var/log/wtmp"})


def stays(path: bytes, inode: Inode) -> bool:
    """Say whether an entry of mmdebstrap's tree belongs to the layer.

    Args:
        path: The entry's normalised path.
        inode: Its inode.
    """
    return path not in _COPIES and not is_noise(path, inode)


def is_noise(path: bytes, inode: Inode) -> bool:
    """Say whether an entry differs between builds without meaning anything, or belongs to no image.

    Args:
        path: The entry's normalised path.
        inode: Its inode.
    """
    if path in _DROPPED or path.startswith(_EMPTIED):
        return True
    return path.startswith(_LOGS) and inode.is_regular and path not in _LOGIN_RECORDS


class Settling:
    """Takes the entries of one build and gives what the build itself made a time of the packages.

    Files that packages brought keep their time. Everything else was made while the build ran: it gets
    the newest time that a package brought, which is the same for the same packages. (A fixed date from
    outside would be older than files that are sources of compiled ones, and make those look stale.)

    Args:
        started: When the build started, in nanoseconds since 1970.
    """

    def __init__(self, started: int) -> None:
        self._started = started
        self._newest = 0
        self._made: list[Inode] = []

    def keep(self, path: bytes, inode: Inode) -> bool:
        """Take an entry; return whether it stays."""
        if not stays(path, inode):
            return False
        if inode.mtime >= self._started:
            self._made.append(inode)
        else:
            self._newest = max(self._newest, inode.mtime)
        return True

    def settle(self) -> None:
        """Give what the build made its time; call it when every entry was taken."""
        for inode in self._made:
            inode.mtime = self._newest
