"""The steps that lay the user's own things over a tree: packages, accounts, files, scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bouvet.plan.inputs import (
    AptInputs,
    AptSourceInputs,
    CargoInputs,
    FileInputs,
    FilesInputs,
    LocaleInputs,
    NpmInputs,
    PipInputs,
    RunInputs,
    UserInputs,
    UsersInputs,
    Variables,
)
from bouvet.plan.steps import Step, make_step
from bouvet.spec.files import CACHES

if TYPE_CHECKING:
    from bouvet.plan.steps import Inputs
    from bouvet.spec import Architecture, Spec

BUILT_IN_LOCALES = frozenset({"C", "POSIX", "C.UTF-8"})
"""Locales that Debian's C library has without compiling them."""


def package_steps(
    spec: Spec, architecture: Architecture, content: Mapping[str, str]
) -> list[tuple[str, Inputs]]:
    """Return name and inputs of the step that adds and removes Debian packages, if there is anything to do.

    Args:
        spec: What the image shall hold.
        architecture: What it runs on.
        content: The digests of the host's files, by the place in the spec that names them.
    """
    apt = spec.apt
    if not (apt.add or apt.remove or apt.sources):
        return []
    sources = tuple(
        AptSourceInputs(
            source.name,
            source.uris,
            source.suites,
            source.components,
            source.architectures,
            None if source.key is None else content[key_place(source.name)],
        )
        for source in apt.sources
    )
    inputs = AptInputs(
        architecture,
        tuple(sorted(set(apt.add))),
        tuple(sorted(set(apt.remove))),
        sources,
        snapshot=spec.debian.snapshot,
    )
    return [("apt", inputs)]


def own_steps(spec: Spec, architecture: Architecture, content: Mapping[str, str]) -> list[tuple[str, Inputs]]:
    """Return names and inputs of the steps over packages and toolchains, in their order.

    Arguments as of `package_steps`.
    """
    steps: list[tuple[str, Inputs]] = []
    variables = environment(spec)
    if spec.system.locale is not None and spec.system.locale not in BUILT_IN_LOCALES:
        steps.append(("locale", LocaleInputs(spec.system.locale)))
    if spec.users:
        steps.append(("users", _users(spec)))
    if spec.pip.packages:
        steps.append(("pip", PipInputs(architecture, _sorted(spec.pip.packages), variables)))
    if spec.npm.packages:
        steps.append(("npm", NpmInputs(architecture, _sorted(spec.npm.packages), variables)))
    if spec.cargo.packages:
        steps.append(("cargo", CargoInputs(architecture, _sorted(spec.cargo.packages), variables)))
    if spec.files:
        steps.append(("files", _files(spec, content)))
    for index, run in enumerate(spec.run):
        inputs = RunInputs(
            script=run.script,
            user=run.user,
            network=run.network,
            caches=tuple(sorted({CACHES.get(name, name) for name in run.caches})),
            environment=tuple((dict(variables) | run.env).items()),
            cwd=run.cwd,
        )
        steps.append((f"run-{run.name or index + 1}", inputs))
    return steps


def environment(spec: Spec) -> Variables:
    """Return the guest's variables: PATH first, then the others by name."""
    others = dict(spec.system.environment)
    if spec.system.locale is not None:
        others["LANG"] = spec.system.locale
    return (("PATH", ":".join(spec.system.path)), *sorted(others.items()))


def file_place(path: str) -> str:
    """Return the name of a file's content in the plan, by the file's path in the image."""
    return f"files {path}"


def key_place(source: str) -> str:
    """Return the name of the key's content in the plan, by its apt source's name."""
    return f"apt.sources {source}"


def chained(steps: list[tuple[str, Inputs]], code: Mapping[str, str], below: list[Step]) -> list[Step]:
    """Return the steps, each over all of those before it and over `below`."""
    made: list[Step] = []
    for name, inputs in steps:
        made.append(make_step(name, inputs, code=code[inputs.kind], after=[*below, *made]))
    return made


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def _users(spec: Spec) -> UsersInputs:
    return UsersInputs(
        tuple(
            UserInputs(
                user.name,
                user.uid,
                user.shell,
                user.groups,
                user.password or None,
                user.home or f"/home/{user.name}",
            )
            for user in spec.users
        )
    )


def _files(spec: Spec, content: Mapping[str, str]) -> FilesInputs:
    return FilesInputs(
        tuple(
            FileInputs(
                path=file.path,
                content=None if file.path.endswith("/") else content[file_place(file.path)],
                mode=None if file.mode is None else int(file.mode, 8),
                owner=file.owner,
                group=file.group,
            )
            for file in spec.files
        )
    )
