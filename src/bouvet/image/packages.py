"""The packages in a tree: Debian's, Alpine's, npm's, Python's and Rust's, and what each of them takes.

Sources: deb-control(5) and dpkg-query(1) for `/var/lib/dpkg`; apk-tools, "apk-v2 installed database"; the
Python packaging specifications, "Recording installed projects"; npm's package.json; cargo's `.crates.toml`;
rustup's channel manifest; the package URL specification (purl). A package manager's tree that another one
brought, such as a Debian package's `dist-info`, belongs to the latter alone.

The tree may be anybody's: what is read has limits, and what is no sensible record is told, not believed.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import posixpath
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from bouvet.formats.tree import BLOCK, FileTree, Inode

TEXT_LIMIT = 64 << 20
"""The most bytes of records that are read in all. Files may share blocks: a small image can hold much."""

Kind = Literal["deb", "apk", "pypi", "npm", "cargo", "generic"]

_LARGEST_RECORD = 16 << 20
_LONGEST_WORD = 200
_DPKG = b"var/lib/dpkg/"
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_NODE_HEADER = b"include/node/node_version.h"
_RUST_CHANNEL = b"lib/rustlib/multirust-channel-manifest.toml"
_RUST_VERSION = re.compile(r'^\[pkg\.rustc\]\nversion = "(\S+)', re.MULTILINE)
_CRATE = re.compile(r"(\S+) (\S+) \((.*)\)")
_NPM_RECORD = re.compile(rb"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@][^/]*/package\.json", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """An installed package.

    Attributes:
        kind: Its kind, as in its package URL: `generic` for programs that no package manager installed.
        name: Its name.
        version: Its version.
        purl: Its package URL.
        place: The absolute path of the record that tells of it.
        licence: What its record says of its licence, empty for nothing.
        size: Bytes that its files take; a file belongs to one package only.
        files: How many regular files it has.
    """

    kind: Kind
    name: str
    version: str
    purl: str
    place: str
    licence: str = ""
    size: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """The packages of a tree.

    Attributes:
        packages: By kind, name and version.
        unread: Absolute paths of records that were not understood, or are too large.
    """

    packages: tuple[Package, ...]
    unread: tuple[str, ...]


@dataclass
class _Found:
    """A package, and the paths that it claims."""

    package: Package
    claims: Iterable[bytes]


class _UnreadableError(Exception):
    """A record is no sensible one."""


@dataclass
class _Records:
    """A tree's records of packages, and how much of them may still be read."""

    tree: FileTree
    paths: list[bytes] = field(default_factory=list)
    left: int = TEXT_LIMIT
    unread: list[bytes] = field(default_factory=list)
    system: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.paths = sorted(self.tree)

    def text(self, path: bytes) -> str:
        """Return a record's text; empty if it is not there."""
        inode = self.tree.get(path)
        if inode is None:
            return ""
        if not inode.is_regular or inode.size > min(_LARGEST_RECORD, self.left):
            raise _UnreadableError
        self.left -= inode.size
        return inode.content().decode(errors="replace")

    def distribution_url(self, kind: Kind, vendor: str, name: str, version: str, architecture: str) -> str:
        """Return the package URL of a distribution's package."""
        if not self.system:
            release = self.text(b"usr/lib/os-release") or self.text(b"etc/os-release")
            self.system = _fields(release, "=") or {"ID": vendor}
        distribution = _word(self.system.get("ID", vendor).strip("\"'"))
        release = self.system.get("VERSION_ID", "").strip("\"'")
        purl = f"pkg:{kind}/{_encoded(distribution)}/{_encoded(name)}@{_encoded(version)}"
        purl += f"?arch={_encoded(architecture)}"
        return purl + (f"&distro={_encoded(distribution)}-{_encoded(_word(release))}" if release else "")

    def below(self, directory: bytes) -> Iterator[bytes]:
        """Yield the paths below a directory."""
        start = bisect.bisect_left(self.paths, directory + b"/")
        for index in range(start, len(self.paths)):
            if not self.paths[index].startswith(directory + b"/"):
                return
            yield self.paths[index]


def find_packages(tree: FileTree) -> Inventory:
    """Return the packages in a tree, with what their files take."""
    records = _Records(tree)
    owned: set[int] = set()
    # One by one: what a package claims may be much.
    packages = [_measured(found, tree, owned) for found in _of_distributions(records)]
    later: list[tuple[bytes, Callable[[_Records, bytes], list[_Found]]]] = []
    for path in records.paths:
        reader = _reader(path)
        if reader is not None and id(tree[path]) not in owned:
            later.append((path, reader))
    # What lies deeper claims its files first: packages may lie in others.
    for path, reader in sorted(later, key=lambda each: -each[0].count(b"/")):
        try:
            packages += [_measured(found, tree, owned) for found in reader(records, path)]
        except (_UnreadableError, ValueError, RecursionError):
            records.unread.append(path)
    return Inventory(tuple(sorted(packages)), tuple(_shown(path) for path in sorted(records.unread)))


def stored(inode: Inode) -> int:
    """Return the bytes that a file's content takes in an image, without its holes."""
    return sum(-(-segment.length // BLOCK) * BLOCK for segment in inode.segments)


def _reader(path: bytes) -> Callable[[_Records, bytes], list[_Found]] | None:
    """Return what reads a record, None for a path that is none."""
    if path.endswith(b".dist-info/METADATA"):
        return _python
    if path.endswith(b"/package.json") and _NPM_RECORD.fullmatch(path):
        return _npm
    if path.endswith(b"/.crates.toml"):
        return _cargo
    if path.endswith(b"/" + _RUST_CHANNEL):
        return _rust
    if path.endswith(b"/" + _NODE_HEADER):
        return _node
    return None


def _of_distributions(records: _Records) -> Iterator[_Found]:
    """Yield what dpkg and apk have installed; dpkg's `status` is in parts in some images."""
    for path in (_DPKG + b"status", *records.below(_DPKG + b"status.d")):
        if not path.endswith(b".md5sums"):
            yield from _paragraphs(records, path, _debian_package)
    for path in _APK:
        yield from _paragraphs(records, path, _alpine_package)


def _paragraphs(
    records: _Records, path: bytes, read: Callable[[_Records, bytes, str], _Found | None]
) -> Iterator[_Found]:
    """Yield the packages that a package manager's paragraphs tell of."""
    try:
        paragraphs = records.text(path).split("\n\n")
    except _UnreadableError:
        records.unread.append(path)
        return
    for paragraph in paragraphs:
        try:
            package = read(records, path, paragraph) if paragraph.strip() else None
        except _UnreadableError:
            if path not in records.unread:
                records.unread.append(path)
        else:
            if package is not None:
                yield package


def _debian_package(records: _Records, path: bytes, paragraph: str) -> _Found | None:
    about = _fields(paragraph, ":")
    if about.get("Status", "installed").split()[-1:] != ["installed"]:
        return None
    name, version = _word(about.get("Package")), _word(about.get("Version"))
    architecture = _word(about.get("Architecture", "all"))
    purl = records.distribution_url("deb", "debian", name, version, architecture)
    lists = [_DPKG + b"info/" + base.encode() + b".list" for base in (name, f"{name}:{architecture}")]
    content = "".join(records.text(each) for each in lists)
    claims = [place for line in content.encode(errors="replace").splitlines() for place in _places(line)]
    return _Found(Package("deb", name, version, purl, _shown(path)), claims)


def _alpine_package(records: _Records, path: bytes, paragraph: str) -> _Found:
    about = _fields(paragraph, ":")
    name, version, architecture = (_word(about.get(key)) for key in ("P", "V", "A"))
    purl = records.distribution_url("apk", "alpine", name, version, architecture)
    claims: list[bytes] = []
    place = ""
    for line in paragraph.splitlines():
        # A directory, and then its files.
        if line.startswith("F:"):
            place = line[2:] + "/" if line[2:] else ""
        elif line.startswith("R:"):
            claims += _places((place + line[2:]).encode(errors="replace"))
    return _Found(Package("apk", name, version, purl, _shown(path), _licence(about.get("L", ""))), claims)


def _places(line: bytes) -> Iterator[bytes]:
    """Yield where a package's path may be: `/lib` is a link to `/usr/lib` in a merged tree."""
    path = line.lstrip(b"/")
    yield path
    if path.startswith((b"bin/", b"lib/", b"lib64/", b"sbin/")):
        yield b"usr/" + path


def _python(records: _Records, path: bytes) -> list[_Found]:
    about = _fields(records.text(path).partition("\n\n")[0], ":")
    name, version = _word(about.get("Name")), _word(about.get("Version"))
    licence = about.get("License-Expression") or about.get("License", "")
    directory = path.rpartition(b"/")[0]
    base = directory.rpartition(b"/")[0].decode(errors="surrogateescape")
    claims = [path]
    for line in records.text(directory + b"/RECORD").splitlines():
        # Path, hash and size; the path is quoted where it has a comma (RFC 4180).
        recorded = line.rsplit(",", 2)[0].strip('"')
        place = posixpath.normpath(posixpath.join("/", base, recorded)).lstrip("/")
        claims.append(place.encode(errors="surrogateescape"))
    purl = f"pkg:pypi/{_encoded(re.sub(r'[-_.]+', '-', name).lower())}@{_encoded(version)}"
    return [_Found(Package("pypi", name, version, purl, _shown(path), _licence(licence)), claims)]


def _npm(records: _Records, path: bytes) -> list[_Found]:
    about = json.loads(records.text(path))
    if not isinstance(about, dict):
        raise _UnreadableError
    name, version = _word(about.get("name")), _word(about.get("version"))
    scope, slash, rest = name.rpartition("/")
    purl = f"pkg:npm/{_encoded(scope)}{slash}{_encoded(rest)}@{_encoded(version)}"
    package = Package("npm", name, version, purl, _shown(path), _licence(about.get("license")))
    return [_Found(package, records.below(path.rpartition(b"/")[0]))]


def _cargo(records: _Records, path: bytes) -> list[_Found]:
    """Return the programs that `cargo install` recorded, each with its binaries."""
    crates = tomllib.loads(records.text(path)).get("v1")
    if not isinstance(crates, dict):
        raise _UnreadableError
    programs = path.rpartition(b"/")[0] + b"/bin/"
    found = []
    for crate, binaries in crates.items():
        match = _CRATE.fullmatch(crate)
        if match is None or not isinstance(binaries, list):
            raise _UnreadableError
        name, version = _word(match[1]), _word(match[2])
        purl = f"pkg:cargo/{_encoded(name)}@{_encoded(version)}"
        claims = [programs + str(binary).encode(errors="replace") for binary in binaries]
        found.append(_Found(Package("cargo", name, version, purl, _shown(path)), claims))
    return found


def _rust(records: _Records, path: bytes) -> list[_Found]:
    """Return the toolchain that rustup, or a build in its place, unpacked."""
    match = _RUST_VERSION.search(records.text(path))
    version = _word(match[1] if match else None)
    toolchain = path.removesuffix(b"/" + _RUST_CHANNEL)
    package = Package("generic", "rust", version, f"pkg:generic/rust@{_encoded(version)}", _shown(path))
    return [_Found(package, records.below(toolchain))]


def _node(records: _Records, path: bytes) -> list[_Found]:
    """Return the Node.js that a header tells of."""
    text = records.text(path)
    parts = [
        re.search(rf"^#define NODE_{part}_VERSION (\d{{1,9}})$", text, re.MULTILINE)
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    version = ".".join(part[1] for part in parts if part is not None)
    if None in parts:
        raise _UnreadableError
    prefix = path.removesuffix(_NODE_HEADER)
    package = Package("generic", "node", version, f"pkg:generic/node@{version}", _shown(path))
    return [_Found(package, [prefix + b"bin/node", *records.below(prefix + b"include/node")])]


def _measured(found: _Found, tree: FileTree, owned: set[int]) -> Package:
    """Return a package with what those of its files take that no other package has."""
    size = files = 0
    for path in found.claims:
        inode = tree.get(path)
        if inode is not None and inode.is_regular and id(inode) not in owned:
            owned.add(id(inode))
            size += stored(inode)
            files += 1
    return dataclasses.replace(found.package, size=size, files=files)


def _fields(text: str, separator: str) -> dict[str, str]:
    """Return a paragraph's fields, the first line of each; the first one of a name counts."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, found, value = line.partition(separator)
        if found and not line.startswith((" ", "\t", "#")):
            fields.setdefault(name, value.strip())
    return fields


def _word(value: object) -> str:
    """Return a name or a version, if it can be one."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_WORD:
        raise _UnreadableError
    if not value.isprintable() or " " in value:
        raise _UnreadableError
    return value


def _licence(value: object) -> str:
    """Return a short licence's name or expression; what is a whole text is none."""
    fine = isinstance(value, str) and len(value) <= _LONGEST_WORD and value.isprintable()
    return str(value).strip() if fine else ""


def _encoded(text: str) -> str:
    """Return a part of a package URL, percent-encoded (purl specification, "Character encoding")."""
    return quote(text, safe=":")


def _shown(path: bytes) -> str:
    return "/" + path.decode(errors="backslashreplace")
