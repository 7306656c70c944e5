"""The user's own content of a spec: files of the host, texts and keys, read once for a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bouvet.errors import SpecError
from bouvet.layers import host_files
from bouvet.layers.host_files import HostFiles
from bouvet.plan.toolchain_steps import NODE_KEY
from bouvet.plan.tree_steps import file_place, key_place
from bouvet.spec import Spec
from bouvet.spec.files import File
from bouvet.spec.packages import ARMORED_KEY
from bouvet.spec.templates import substitute, unknown_names
from bouvet.spec.toolchains import is_url


def collect(spec: Spec, directory: Path) -> dict[str, HostFiles]:
    """Return the content of the spec's files and keys, by the names that the plan has for them.

    Args:
        spec: What the image shall hold.
        directory: What host paths are relative to.

    Raises:
        SpecError: Some of it cannot be used; the details list everything.
    """
    found: dict[str, HostFiles] = {}
    problems: list[str] = []
    for path, place, read in _places(spec, directory):
        try:
            found[place] = read()
        except SpecError as error:
            problems.append(f"{path}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
    if problems:
        raise SpecError(
            "files that the spec names cannot be used",
            hint=f"paths are relative to the spec's own directory, {directory}",
            details=tuple(problems),
        )
    return found


def _places(spec: Spec, directory: Path) -> Iterator[tuple[str, str, Callable[[], HostFiles]]]:
    """Yield each place in the spec, its name in the plan, and how it is read."""
    for index, file in enumerate(spec.files):
        if not file.path.endswith("/"):
            yield f"files[{index}]", file_place(file.path), _reader(file, spec, directory)
    for index, source in enumerate(spec.apt.sources):
        if source.key is not None:
            yield f"apt.sources[{index}].key", key_place(source.name), _key_reader(source.key, directory)
    node = spec.node
    if node is not None and node.key is not None and not is_url(node.key):
        yield NODE_KEY, NODE_KEY, _key_reader(node.key, directory)


def _reader(file: File, spec: Spec, directory: Path) -> Callable[[], HostFiles]:
    def change(text: str) -> str:
        if unknown := unknown_names(text, spec.variables):
            raise SpecError(f"${{{unknown[0]}}} has no value in [variables]")
        return substitute(text, spec.variables)

    def read() -> HostFiles:
        if file.source is None:
            content = file.content or ""
            return host_files.text(change(content) if file.template else content)
        found = host_files.read(
            directory / file.source, exclude=file.exclude, change=change if file.template else None
        )
        if found.is_directory and file.mode is not None:
            raise SpecError("'mode' is for a file, and the source is a directory")
        if not found.is_directory and file.exclude:
            raise SpecError("'exclude' is for a directory, and the source is a file")
        return found

    return read


def _key_reader(key: str, directory: Path) -> Callable[[], HostFiles]:
    if ARMORED_KEY in key:
        return lambda: host_files.text(key)
    return lambda: host_files.read(directory / key)
