"""What the build must not leave behind."""

from __future__ import annotations

import functools
import re

from bouvet.image.guest import Finding, Guest, Requirement, none_of

AREA = "Leftovers"

# debconf's answers are no cache: packages installed later read them.
_KEPT_CACHES = "/var/cache/debconf/"
# What Debian's base-files and the system bring.
_ROOT_FILES = frozenset(("/root/.bashrc", "/root/.profile"))
_PROXY = re.compile(r"(?im)^[^#\n]*\b(?:(?:http|https|ftp|all|no)[_-]?proxy|proxy)\b.*$")
_SLASH_COMMENT = re.compile(r"(?m)^[ \t]*//.*$")
_CLIENT_FILES = (
    "/etc/environment", "/etc/wgetrc", "/etc/curlrc", "/etc/gitconfig", "/etc/pip.conf", "/etc/npmrc",
    "/usr/etc/npmrc", "/usr/local/etc/npmrc", "/usr/lib/node_modules/npm/npmrc",
    "/usr/local/cargo/config.toml", "/usr/local/cargo/config",
)  # fmt: skip
_CLIENT_DIRECTORIES = ("/etc/apt/apt.conf.d", "/etc/profile.d", "/etc/systemd/system.conf.d")


def requirements() -> list[Requirement]:
    """Return the requirements that concern what a build may leave behind."""
    apt = ("/var/lib/apt/lists", "/var/cache/apt")
    temporary = ("/tmp", "/var/tmp", "/run")  # noqa: S108  (the guest's)
    return [
        Requirement(AREA, "no apt lists, packages or caches", functools.partial(_nothing_in, places=apt)),
        Requirement(AREA, "no other caches", _no_caches),
        Requirement(AREA, "no logs", _no_logs),
        Requirement(AREA, "no temporary files", functools.partial(_nothing_in, places=temporary)),
        Requirement(AREA, "no npm cache", _no_npm_cache),
        Requirement(AREA, "no documentation of toolchains", _no_toolchain_documentation),
        Requirement(AREA, "no proxy settings of the build host", _no_proxy),
        Requirement(AREA, "nothing in /root but Debian's own files", _root_is_clean),
    ]


def _nothing_in(guest: Guest, *, places: tuple[str, ...]) -> Finding:
    return none_of(path for place in places for path, _ in guest.files_below(place))


def _no_caches(guest: Guest) -> Finding:
    elsewhere = (_KEPT_CACHES, "/var/cache/apt/")
    files = guest.files_below("/var/cache")
    return none_of(path for path, _ in files if not path.startswith(elsewhere))


def _no_logs(guest: Guest) -> Finding:
    # Empty ones are there so that logins and the journal have where to write.
    return none_of(path for path, inode in guest.files_below("/var/log") if inode.size)


def _no_npm_cache(guest: Guest) -> Finding:
    places = [path for path in ("/root/.npm", "/usr/local/.npm") if guest.entry(path) is not None]
    return none_of([*places, *guest.directories_named("_cacache")])


def _no_toolchain_documentation(guest: Guest) -> Finding:
    npm = "/usr/lib/node_modules/npm"
    places = [path for path in (f"{npm}/docs", f"{npm}/man") if guest.entry(path) is not None]
    rustup = [path for path, _ in guest.files_below("/usr/local/rustup") if _is_documentation(path)]
    return none_of([*places, *rustup])


def _is_documentation(path: str) -> bool:
    """Return whether a file of a toolchain is documentation; licences are legal notices and stay."""
    return re.search(r"/share/(doc|man)/(?!.*(/licenses/|LICENSE|COPYRIGHT))", path) is not None


def _no_proxy(guest: Guest) -> Finding:
    files = [path for place in _CLIENT_DIRECTORIES for path, _ in guest.files_below(place)]
    asked_for = {name for name, _ in guest.expected.environment}
    found = []
    for path in ("/etc/apt/apt.conf", *_CLIENT_FILES, *files):
        if guest.exists(path):
            text = _SLASH_COMMENT.sub("", guest.text(path))
            lines = [match[0] for match in _PROXY.finditer(text)]
            found += [f"{path}: {line}" for line in lines if not any(name in line for name in asked_for)]
    return none_of(found)


def _root_is_clean(guest: Guest) -> Finding:
    return none_of(path for path, _ in guest.files_below("/root") if path not in _ROOT_FILES)
