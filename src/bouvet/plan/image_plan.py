"""From a spec to the steps that make its image."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from bouvet.errors import SpecError
from bouvet.plan.oci_steps import ContainerBase, ContainerInputs
from bouvet.plan.steps import (
    AgentInputs,
    DebianInputs,
    Step,
    SystemInputs,
    make_step,
)
from bouvet.plan.toolchain_steps import (
    NODESOURCE_EXCLUDE,
    toolchain_archives,
    toolchain_packages,
    toolchain_steps,
)
from bouvet.plan.tree_steps import chained, environment, own_steps, package_steps
from bouvet.spec import Architecture, Spec

ARCHITECTURES: tuple[Architecture, ...] = ("x86_64", "aarch64")


def host_architecture() -> Architecture:
    """Return the host's architecture.

    Raises:
        SpecError: bouvet makes no images for it.
    """
    machine = platform.machine()
    for architecture in ARCHITECTURES:
        if machine == architecture:
            return architecture
    raise SpecError(
        f"bouvet makes no images for {machine}, this host's architecture",
        hint=f"name one of {', '.join(ARCHITECTURES)}",
    )


def plan_layers(
    spec: Spec,
    architecture: Architecture,
    *,
    code: Mapping[str, str],
    agent: str,
    content: Mapping[str, str] | None = None,
    container: ContainerBase | None = None,
) -> list[Step]:
    """Return the steps whose layers, in this order, make the image's tree.

    Args:
        spec: What the image shall hold.
        architecture: What it runs on.
        code: For each kind of step a digest of the code that makes it.
        agent: The digest of the agent's binary.
        content: The digests of the host's files that the spec names, by their place in it
            (`tree_steps.file_place`, `tree_steps.key_place`, `toolchain_steps.NODE_KEY`).
        container: The container image that it starts with, None for a tree of Debian's.
    """
    if container is None:
        base = [make_step("debian", _debian(spec, architecture, content or {}), code=code["debian"])]
    else:
        named = [(f"oci-{number}", layer) for number, layer in enumerate(container.layers, 1)]
        base = chained(list(named), code, [])
    packages = chained(package_steps(spec, architecture, content or {}), code, base)
    steps = [*base, *packages]
    steps += toolchain_steps(spec, architecture, code, base)
    own = chained(own_steps(spec, architecture, content or {}), code, steps)
    steps += own
    # Toolchains bring nothing that the system's configuration depends on.
    system = _system(spec) if container is None else _container(spec, container)
    steps.append(make_step("system", system, code=code[system.kind], after=[*base, *packages, *own]))
    if spec.agent:
        binary = AgentInputs(architecture, agent)
        steps.append(make_step("agent", binary, code=code["agent"], after=base))
    return steps


def _debian(spec: Spec, architecture: Architecture, content: Mapping[str, str]) -> DebianInputs:
    archives = toolchain_archives(spec, content)
    excluded = [each.path for each in spec.slim.exclude if each.architecture in (None, architecture)]
    return DebianInputs(
        architecture=architecture,
        suite=spec.debian.suite,
        mirror=spec.debian.mirror,
        packages=tuple(sorted({*spec.debian.packages, *toolchain_packages(spec)})),
        exclude=(*excluded, *(NODESOURCE_EXCLUDE if archives else ())),
        include=spec.slim.keep,
        archives=archives,
        snapshot=spec.debian.snapshot,
    )


def _container(spec: Spec, container: ContainerBase) -> ContainerInputs:
    return ContainerInputs(_system(spec), container.service)


def _system(spec: Spec) -> SystemInputs:
    return SystemInputs(
        hostname=spec.system.hostname,
        root_password=spec.system.root_password,
        environment=environment(spec)[1:],
        path=spec.system.path,
        network=spec.system.network,
        agent=spec.agent,
        agent_first=spec.agent_first,
        timezone=spec.system.timezone,
        enable=spec.services.enable,
        disable=spec.services.disable,
    )
