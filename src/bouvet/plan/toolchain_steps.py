"""The steps that bring Node.js and Rust, each by its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bouvet.plan.steps import (
    ArchiveInputs,
    NodeArchiveInputs,
    NodeInputs,
    RustInputs,
    RustupInputs,
    Step,
    make_step,
)
from bouvet.spec import Architecture, Spec
from bouvet.spec.toolchains import RUST_PACKAGES, Node, Rust, is_url

DEFAULT_NPM = "11"
"""The npm that is installed where the spec names none."""

NODE_KEY = "node.key"
"""The name in the plan of NodeSource's key where that is no URL."""

NODESOURCE_EXCLUDE = ("/usr/lib/node_modules/npm/docs/*", "/usr/lib/node_modules/npm/man/*")
"""npm's documentation, which NodeSource's package has where Debian's own rules do not look."""


def toolchain_steps(
    spec: Spec, architecture: Architecture, code: Mapping[str, str], base: Sequence[Step]
) -> list[Step]:
    """Return the steps that make toolchains' layers; Debian's packages bring the others.

    Args:
        spec: What the image shall hold.
        architecture: What it runs on.
        code: For each kind of step a digest of the code that makes it.
        base: The steps that make the tree below.
    """
    steps = []
    if spec.node is not None and spec.node.source != "nodesource":
        steps.append(_node_step(spec.node, architecture, code))
    if spec.rust is not None:
        steps.append(_rust_step(spec.rust, architecture, code, base))
    return steps


def toolchain_packages(spec: Spec) -> list[str]:
    """Return the Debian packages that the spec's toolchains consist of, beside those that it lists.

    Node.js's is followed by the beginning of its version, as apt takes it.
    """
    rust = RUST_PACKAGES if spec.rust is not None and spec.rust.source == "debian" else ()
    node = spec.node
    if node is None or node.source != "nodesource":
        return [*rust]
    # apt takes the beginning of a version; Debian's revision follows a whole one.
    whole = node.version.count(".") == 2
    return [*rust, f"nodejs={node.version}{'-' if whole else '.'}*"]


def toolchain_archives(spec: Spec, content: Mapping[str, str]) -> tuple[ArchiveInputs, ...]:
    """Return the archives that those packages come from, beside Debian's own.

    Args:
        spec: What the image shall hold.
        content: The digests of the host's files, by the place in the spec that names them.
    """
    node = spec.node
    if node is None or node.source != "nodesource":
        return ()
    assert node.server is not None
    assert node.key is not None
    assert node.fingerprint is not None
    key = node.key if is_url(node.key) else content[NODE_KEY]
    archive = ArchiveInputs("nodesource", node.server, "nodistro", "main", key, node.fingerprint, ("nodejs",))
    return (archive,)


def _node_step(node: Node, architecture: Architecture, code: Mapping[str, str]) -> Step:
    if node.source == "nodejs.org":
        archive = NodeArchiveInputs(architecture, node.version, node.server)
        return make_step("node", archive, code=code["nodejs_org"])
    packages = NodeInputs(architecture, node.version, node.npm or DEFAULT_NPM)
    return make_step("node", packages, code=code["node"])


def _rust_step(rust: Rust, architecture: Architecture, code: Mapping[str, str], base: Sequence[Step]) -> Step:
    if rust.source == "debian":
        return make_step("rust", RustInputs(architecture), code=code["rust"], after=base)
    components = tuple(sorted(set(rust.components)))
    inputs = RustupInputs(architecture, rust.channel, components, rust.server)
    return make_step("rust", inputs, code=code["rustup"])
