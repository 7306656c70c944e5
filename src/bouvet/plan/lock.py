"""The lock: what images are made of, to the byte; a TOML file beside their specs.

    version = 1
    [[image]]                  one for each spec and architecture
    spec, architecture, digest which one, and the state of the spec
    kernel                     the kernel that boots it
    container                  the container image that it starts with, and its layers
    [image.steps.NAME]         what a step installs: `request`, `sources`, `artifacts`

`docs/reference/lock.md` describes it. A step's `request` is a digest of what the spec asks of it: a step
that is asked for something else is not the one that was locked.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bouvet.errors import LockError
from bouvet.plan.provenance import Artifact, Locked
from bouvet.plan.steps import Inputs, Step, digest_of, make_step

VERSION = 1

_HEADER = "# Written by 'bouvet lock': what images are made of. 'bouvet build --locked' takes exactly this.\n"
# A step's environment may hold secrets, and says nothing of what is installed.
_NOT_ASKED = frozenset({"locked", "environment", "snapshot"})

# Kinds of steps whose packages stay when others are asked for.
_MANY = frozenset({"debian", "apt", "pip", "npm", "cargo"})

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9@][A-Za-z0-9@/_.+~:=-]{0,200}$")]
_Version = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9.+~:!_-]{0,200})?$")]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,40}$")]
_Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|sha512-[0-9A-Za-z+/]{86}==)$")]
_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Line = Annotated[str, Field(pattern=r"^[!-~][ -~]{0,2000}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Artifact(_Table):
    name: _Name
    version: _Version = ""
    architecture: _Word = ""
    digest: _Digest
    path: Annotated[str, Field(pattern=r"^([!-~]{1,2000})?$")] = ""


class _ContainerPart(_Artifact):
    # What `from` says, which may be a path.
    name: Annotated[str, Field(pattern=r"^[^\s\x00-\x1f\x7f]{1,4096}$")]


class _Step(_Table):
    request: _Hex
    sources: list[_Line] = []
    artifacts: list[_Artifact] = []


class _Image(_Table):
    spec: Annotated[str, Field(min_length=1, max_length=200)]
    architecture: Annotated[str, Field(pattern="^(x86_64|aarch64)$")]
    digest: _Hex
    kernel: _Artifact | None = None
    container: list[_ContainerPart] = []
    steps: dict[str, _Step] = {}


class _Document(_Table):
    version: int
    image: list[_Image] = []


@dataclass(frozen=True, slots=True)
class StepLock:
    """What a step installs.

    Attributes:
        request: A digest of what the spec asks of it, in hexadecimal.
        sources: Where it came from, as of `Provenance`.
        artifacts: What was installed, sorted.
    """

    request: str
    sources: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageLock:
    """What the image of a spec is made of, for an architecture.

    Attributes:
        spec: The spec's short name.
        architecture: `x86_64` or `aarch64`.
        digest: A digest of the spec without its secrets, in hexadecimal: which state of it was locked.
        kernel: The kernel that boots it: its release as version.
        container: The container image that it starts with, and then its layers, the lowest first.
        steps: What its steps install, by their names.
    """

    spec: str
    architecture: str
    digest: str
    kernel: Artifact | None = None
    container: tuple[Artifact, ...] = ()
    steps: Mapping[str, StepLock] = field(default_factory=dict)


Lock = dict[tuple[str, str], ImageLock]
"""Images by their spec's short name and their architecture."""


def parse_lock(text: str, name: str) -> Lock:
    """Read a lock.

    Args:
        text: The file's text.
        name: What it is called in messages.

    Raises:
        LockError: It is no lock, or of another version.
    """
    try:
        data = tomllib.loads(text)
        if data.get("version") != VERSION:
            raise LockError(
                f"{name} has the version {data.get('version')!r}, and this bouvet reads {VERSION}",
                hint="write it anew with 'bouvet lock'",
            )
        document = _Document.model_validate(data)
    except ValidationError as error:
        problems = tuple(f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()[:20])
        raise LockError(
            f"{name} is no lock", hint="write it anew with 'bouvet lock'", details=problems
        ) from error
    # Not tomllib's own error only: a number of thousands of digits is another one.
    except (ValueError, RecursionError) as error:
        raise LockError(f"{name} is no lock: {error}", hint="write it anew with 'bouvet lock'") from error
    lock: Lock = {}
    for image in document.image:
        if (image.spec, image.architecture) in lock:
            raise LockError(
                f"{name} has {image.spec} for {image.architecture} twice",
                hint="remove one of the two, or write it anew with 'bouvet lock'",
            )
        lock[image.spec, image.architecture] = _image(image)
    return lock


def format_lock(lock: Lock) -> str:
    """Return a lock's text: sorted, one line an artifact, the same for the same lock."""
    lines = [_HEADER, f"version = {VERSION}\n"]
    for _, image in sorted(lock.items()):
        lines.append(f"\n[[image]]\nspec = {_text(image.spec)}\narchitecture = {_text(image.architecture)}\n")
        lines.append(f"digest = {_text(image.digest)}\n")
        if image.kernel is not None:
            lines.append(f"kernel = {_inline(image.kernel)}\n")
        if image.container:
            lines += _array("container", map(_inline, image.container))
        for name, step in sorted(image.steps.items()):
            lines.append(f"\n[image.steps.{_text(name)}]\nrequest = {_text(step.request)}\n")
            lines += _array("sources", (_text(source) for source in step.sources))
            lines += _array("artifacts", (_inline(each) for each in sorted(step.artifacts)))
    return "".join(lines)


def request_of(step: Step) -> str:
    """Return a digest, in hexadecimal, of what the spec asks of a step."""
    asked = {
        name: value
        for name, value in dataclasses.asdict(step.inputs).items()
        if name not in _NOT_ASKED and name not in _places(step.inputs)
    }
    return digest_of({"kind": step.inputs.kind, "asked": asked})


def is_lockable(step: Step) -> bool:
    """Return whether what a step installs is chosen when it runs."""
    return hasattr(step.inputs, "locked")


def is_settled(step: Step) -> bool:
    """Return whether a step takes no lock, or one that leaves nothing open."""
    locked: Locked | None = getattr(step.inputs, "locked", None)
    return locked is None or locked.complete


def with_locks(steps: Sequence[Step], locks: Mapping[str, Locked]) -> list[Step]:
    """Return a plan in which the named steps install what a lock says."""
    made: dict[str, Step] = {}
    for step in steps:
        inputs: Any = step.inputs
        if step.name in locks and is_lockable(step):
            inputs = dataclasses.replace(inputs, locked=locks[step.name])
        made[step.name] = make_step(
            step.name, inputs, code=step.code, after=[made[below] for below in step.after]
        )
    return list(made.values())


def all_locked(image: ImageLock, steps: Sequence[Step], name: str) -> dict[str, Locked]:
    """Return what each step of a plan has to install.

    Args:
        image: What the lock says of the image.
        steps: The plan without the lock.
        name: What the lock is called in messages.

    Raises:
        LockError: The spec asks for something else than was locked; the details list what.
    """
    problems = []
    for step in steps:
        if not is_lockable(step):
            continue
        known = image.steps.get(step.name)
        if known is None:
            problems.append(f"{step.name}: is not in the lock")
        elif known.request != request_of(step):
            problems.append(f"{step.name}: the spec asks for something else than was locked")
    problems += [f"{each}: is not in the spec any more" for each in image.steps if each not in _names(steps)]
    if problems:
        raise LockError(
            f"{name} does not fit the spec {image.spec}",
            hint="'bouvet lock' locks what is new and keeps the rest",
            details=tuple(problems),
        )
    return {each: Locked(step.artifacts, step.sources) for each, step in image.steps.items()}


def kept(image: ImageLock, steps: Sequence[Step], free: Iterable[str]) -> dict[str, Locked]:
    """Return what each step of a plan keeps of a lock while the rest is chosen anew.

    Args:
        image: What the lock says of the image.
        steps: The plan without the lock.
        free: Names of artifacts, or of whole steps, that are not kept.

    Raises:
        LockError: There is no such artifact or step.
    """
    chosen = frozenset(free)
    known = {artifact.name for step in image.steps.values() for artifact in step.artifacts} | {*image.steps}
    known |= {artifact.name for artifact in image.container[:1]}
    if unknown := sorted(chosen - known - {"kernel"}):
        raise LockError(
            f"the lock of {image.spec} for {image.architecture} has no {', '.join(unknown)}",
            hint="name a package as the lock does, a step of it, or 'kernel'",
        )
    found = {}
    for step in steps:
        locked = image.steps.get(step.name)
        if not is_lockable(step) or step.name in chosen or locked is None:
            continue
        same = locked.request == request_of(step)
        artifacts = tuple(each for each in locked.artifacts if each.name not in chosen)
        # A toolchain of another version is another one; of many packages most stay.
        if same or step.inputs.kind in _MANY:
            complete = same and len(artifacts) == len(locked.artifacts)
            found[step.name] = Locked(artifacts, locked.sources, complete)
    return found


def changes(before: ImageLock, after: ImageLock) -> Iterator[str]:
    """Yield what differs between two locks of an image, a line each."""
    old = before.steps
    for name in sorted({*old, *after.steps}):
        was, now = (_by_name(steps.get(name)) for steps in (old, after.steps))
        for each in sorted({*was, *now}):
            if each not in was:
                yield f"{name}: {each} {now[each].version} added"
            elif each not in now:
                yield f"{name}: {each} {was[each].version} removed"
            elif was[each].version != now[each].version:
                yield f"{name}: {each} {was[each].version} -> {now[each].version}"
            elif was[each] != now[each]:
                yield f"{name}: {each} {now[each].version} has other bytes"
    if before.container != after.container:
        first = (image.container[0] for image in (before, after) if image.container)
        yield f"from: {' -> '.join(f'{each.name} {each.digest}' for each in first)}"
    if before.kernel != after.kernel:
        versions = (
            str(kernel.version or kernel.digest) for kernel in (before.kernel, after.kernel) if kernel
        )
        yield f"kernel: {' -> '.join(versions)}"


def _by_name(step: StepLock | None) -> dict[str, Artifact]:
    """Return artifacts by what they are called; npm's may be there in several places."""
    found: dict[str, Artifact] = {}
    for each in () if step is None else step.artifacts:
        found[each.name if each.name not in found else f"{each.name} ({each.path})"] = each
    return found


def _names(steps: Sequence[Step]) -> set[str]:
    return {step.name for step in steps if is_lockable(step)}


def _places(inputs: Inputs) -> set[str]:
    return {each.name for each in dataclasses.fields(inputs) if not each.metadata.get("digested", True)}


def _image(image: _Image) -> ImageLock:
    steps = {
        name: StepLock(step.request, tuple(step.sources), tuple(sorted(map(_artifact, step.artifacts))))
        for name, step in image.steps.items()
    }
    kernel = None if image.kernel is None else _artifact(image.kernel)
    container = tuple(map(_artifact, image.container))
    return ImageLock(image.spec, image.architecture, image.digest, kernel, container, steps)


def _artifact(row: _Artifact) -> Artifact:
    return Artifact(row.name, row.version, row.architecture, row.digest, row.path)


def _inline(artifact: Artifact) -> str:
    values = dataclasses.asdict(artifact)
    return "{ " + ", ".join(f"{key} = {_text(value)}" for key, value in values.items() if value) + " }"


def _array(name: str, values: Iterable[str]) -> Iterator[str]:
    rows = [f"  {value},\n" for value in values]
    yield f"{name} = [\n" if rows else f"{name} = []"
    yield from rows
    yield "]\n" if rows else "\n"


def _text(value: str) -> str:
    # JSON's escapes are those of TOML's basic strings, as long as no surrogates are needed.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
