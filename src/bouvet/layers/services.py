"""Units that are enabled or disabled as systemctl would, by links alone (systemd.unit(5), [Install])."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bouvet.errors import LayerError

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree

CONFIGURED = b"etc/systemd/system/"
"""Where links of units that are enabled are."""

MASK = b"/dev/null"
"""Where a link leads that keeps a unit from being started."""

_DIRECTORIES = (
    CONFIGURED,
    b"usr/local/lib/systemd/system/",
    b"usr/lib/systemd/system/",
    b"lib/systemd/system/",
)
_DEPENDENTS = {"WantedBy": b".wants/", "RequiredBy": b".requires/", "UpheldBy": b".upholds/"}
_MAXIMUM_UNIT = 1 << 20


def full_name(unit: str) -> str:
    """Return a unit's name with its type, which is `.service` where none is written."""
    types = (".service", ".socket", ".timer", ".target", ".path", ".mount", ".automount", ".swap", ".slice")
    return unit if unit.endswith(types) else unit + ".service"


def links_to_enable(tree: FileTree, unit: str) -> dict[bytes, bytes]:
    """Return the links, by path, that enable a unit and those that go `Also` with it.

    Raises:
        LayerError: There is no such unit, it is masked, or nothing says what would start it.
    """
    links: dict[bytes, bytes] = {}
    pending, seen = [full_name(unit)], set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        install = _install_section(tree, name)
        if not install and name == full_name(unit):
            raise LayerError(
                f"the unit {name} cannot be enabled: it does not say what would start it",
                hint="it has no [Install] section; other units start it",
            )
        place = b"/" + _find(tree, name)
        pending += [full_name(other) for other in install.get("Also", [])]
        for key, directory in _DEPENDENTS.items():
            for target in install.get(key, []):
                links[CONFIGURED + target.encode() + directory + name.encode()] = place
        for alias in install.get("Alias", []):
            links[CONFIGURED + alias.encode()] = place
    return links


def links_to_remove(tree: FileTree, unit: str) -> Iterator[bytes]:
    """Yield the configured links that start a unit.

    Raises:
        LayerError: There is no such unit.
    """
    name = full_name(unit).encode()
    place = b"/" + _find(tree, full_name(unit))
    for path, inode in tree.items():
        if path.startswith(CONFIGURED) and inode.is_symlink:
            in_a_directory = path.endswith((b".wants/" + name, b".requires/" + name, b".upholds/" + name))
            if in_a_directory or _same(inode.target, place):
                yield path


def starts_anyway(tree: FileTree, unit: str) -> bool:
    """Return whether a package's own links start a unit, which no configuration has set."""
    ends = tuple(directory + full_name(unit).encode() for directory in _DEPENDENTS.values())
    return any(path.endswith(ends) for path in tree if path.startswith(_DIRECTORIES[1:]))


def _find(tree: FileTree, name: str) -> bytes:
    """Return where a unit's file is; for an instance, its template's."""
    for each in (name, _template(name)):
        for directory in _DIRECTORIES:
            path = directory + each.encode()
            if path in tree:
                if tree[path].is_symlink and tree[path].target == MASK:
                    raise LayerError(f"the unit {name} is masked")
                return path
    units = [path.rpartition(b"/")[2].decode() for path in tree if path.startswith(_DIRECTORIES)]
    near = difflib.get_close_matches(name, units, n=1)
    raise LayerError(
        f"there is no unit {name} in the image",
        hint=f"did you mean {near[0]}?" if near else "a package or one of [[files]] must bring it",
    )


def _template(name: str) -> str:
    prefix, at, rest = name.partition("@")
    return f"{prefix}@.{rest.rpartition('.')[2]}" if at else name


def _install_section(tree: FileTree, name: str) -> dict[str, list[str]]:
    """Return a unit's [Install] section: the words of each key, its assignments put together."""
    inode = tree[_find(tree, name)]
    for _ in range(8):  # units that are links to others
        if not inode.is_symlink:
            break
        target = inode.target.rpartition(b"/")[2].decode(errors="replace")
        inode = tree[_find(tree, target)]
    if not inode.is_regular or inode.size > _MAXIMUM_UNIT:
        raise LayerError(f"the unit {name} is no readable file")
    text = inode.content().decode(errors="replace").replace("\\\n", " ")
    section, keys = "", dict[str, list[str]]()
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Install]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            words = [_instance(word, name) for word in value.split()]
            keys[key.strip()] = [*keys.get(key.strip(), []), *words] if words else []
    return keys


def _instance(word: str, name: str) -> str:
    """Return a word of [Install] with the specifiers of the unit's instance filled in."""
    instance = name.partition("@")[2].rpartition(".")[0]
    return word.replace("%i", instance).replace("%I", instance).replace("%n", name)


def _same(target: bytes, place: bytes) -> bool:
    """Return whether a link leads to a unit; `/lib` is `/usr/lib` in a merged tree."""
    return target.removeprefix(b"/usr") == place.removeprefix(b"/usr")
