"""The npm layer: Node.js packages installed globally, by the tree's own npm."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers import commands
from bouvet.layers.client_settings import client_settings
from bouvet.layers.commands import FILES, Command
from bouvet.layers.left_files import read_left
from bouvet.layers.pins import check, taken_from
from bouvet.plan.provenance import Artifact, Provenance

if TYPE_CHECKING:
    from bouvet.formats.tree import FileTree
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.inputs import NpmInputs

_CACHE = "/root/.npm"
_USER_SETTINGS = "npmrc"
_RECORD = re.compile(
    rb"usr/(?:local/)?lib/(node_modules/(?:@[^/]+/)?[^/@][^/]*(?:/node_modules/(?:@[^/]+/)?[^/@][^/]*)*)/package\.json"
)
_ARCHIVE = re.compile(r"/(?P<name>(?:@[^/]+/)?[^/]+)/-/(?P<file>[^/]+)\.tgz$")
_SHA512 = re.compile(r"sha512-[0-9A-Za-z+/]{86}==")

BEFORE = "before "
"""How the line of a lock's sources begins that says when a choice was made: npm leaves out what is newer."""


def make(inputs: NpmInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Install the packages below npm's global prefix, which is /usr/local.

    Raises:
        CommandFailed: npm could not install them.
        LayerError: There is no npm in the layers below.
        LockError: A locked package cannot be had.
    """
    if not any(name in workshop.lower for name in (b"usr/bin/npm", b"usr/local/bin/npm")):
        raise LayerError("the layers below have no npm", hint="add the table [node] to the spec")
    assert workshop.below is not None
    settings = client_settings("NPM_CONFIG_")
    files, environment = dict(settings.files), {**settings.environment, **dict(inputs.environment)}
    if (user := Path.home() / ".npmrc").is_file():
        files[_USER_SETTINGS] = user.read_bytes()
        environment["npm_config_userconfig"] = f"{FILES}/{_USER_SETTINGS}"
    options = ["--global", "--no-audit", "--no-fund", "--no-update-notifier", "--logs-max=0"]
    sources = () if inputs.locked is None or not inputs.locked.complete else inputs.locked.sources
    options += [f"--before={line.removeprefix(BEFORE)}" for line in sources if line.startswith(BEFORE)]
    cache = workshop.below.cache("npm")
    command = Command(
        argv=("npm", "install", *options, f"--cache={_CACHE}", "--", *_wanted(inputs)),
        network=True,
        environment=environment,
        caches={_CACHE: cache},
        files=files,
    )
    workshop.progress("installing Node.js packages", None)
    with taken_from(inputs.locked):
        commands.run_over_layers(command, workshop, layer)
    artifacts = installed(layer.tree, cache)
    check(artifacts, inputs.locked)
    layer.provenance = Provenance(artifacts, sources)


def _wanted(inputs: NpmInputs) -> list[str]:
    """Return the packages, with the versions of a lock."""
    if inputs.locked is None:
        return list(inputs.packages)
    # What a package brings along may be there in several versions, and is nobody's wish.
    names = {each[0] + each[1:].partition("@")[0]: each for each in inputs.packages}
    top = {
        each.name: f"{each.name}@{each.version}"
        for each in inputs.locked.artifacts
        if each.path == f"node_modules/{each.name}"
    }
    return [top.get(name, each) for name, each in names.items()]


def installed(tree: FileTree, cache: Path) -> tuple[Artifact, ...]:
    """Return the packages of a layer, with the registry's digests.

    Args:
        tree: The layer's entries.
        cache: npm's cache: its index knows the digest of what came from where.

    Raises:
        LayerError: The index does not know one, or a package says nothing of itself.
    """
    digests = _digests(cache / "_cacache/index-v5")
    found = []
    for path, inode in tree.items():
        match = _RECORD.fullmatch(path)
        if match is None or not inode.is_regular:
            continue
        place = match[1].decode(errors="replace")
        try:
            about = json.loads(inode.content())
            name, version = str(about["name"]), str(about["version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LayerError(f"{place}/package.json makes no sense: {error!r}") from error
        digest = digests.get((name, version))
        if digest is not None:
            found.append(Artifact(name, version, digest=digest, path=place))
        elif place == f"node_modules/{name}":
            raise LayerError(f"npm has kept no archive of {name} {version}")
        # Else it came in the archive of the package that it lies in.
    return tuple(sorted(found))


def _digests(index: Path) -> dict[tuple[str, str], str]:
    """Return the digests of the archives in npm's cache, by name and version; the newest counts.

    Source: cacache's index, version 5: a line an entry, of a digest, a tab and JSON with `time`.
    """
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for file in index.rglob("*"):
        if file.is_symlink() or not file.is_file():
            continue
        for line in read_left(file).decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
                entry = json.loads(line.partition("\t")[2])
                match = _ARCHIVE.search(urllib.parse.unquote(str(entry.get("key"))))
                digest = _SHA512.search(str(entry.get("integrity")))
                if match and digest:
                    name = match["name"].rpartition("/")[2]
                    key = match["name"], match["file"].removeprefix(f"{name}-")
                    found[key] = max(found.get(key, (0, "")), (int(entry.get("time", 0)), digest[0]))
    return {key: digest for key, (_, digest) in found.items()}
