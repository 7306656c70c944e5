"""Plans: which steps, and what changes their digests."""

from __future__ import annotations

import pytest

from bouvet.plan import Step, plan_layers
from bouvet.plan.steps import DebianInputs, NodeArchiveInputs, RustupInputs
from bouvet.spec import load
from bouvet.spec.toolchains import RUST_PACKAGES

CODE = dict.fromkeys(("debian", "node", "nodejs_org", "rust", "rustup", "system", "agent"), "1")


def plan(preset: str = "devbox", *overrides: str, agent: str = "a", **code: str) -> dict[str, Step]:
    steps = plan_layers(load(preset, overrides), "x86_64", code=CODE | code, agent=agent)
    return {step.name: step for step in steps}


def changed(*overrides: str, agent: str = "a", **code: str) -> set[str]:
    """Return the names of the steps whose digests differ from the devbox's own."""
    before, after = plan(), plan("devbox", *overrides, agent=agent, **code)
    return {name for name in before if name not in after or before[name].digest != after[name].digest}


def test_the_presets_steps() -> None:
    assert list(plan("devbox")) == ["debian", "node", "rust", "system", "agent"]
    assert list(plan("base")) == ["debian", "system", "agent"]
    assert list(plan("base", "agent=false")) == ["debian", "system"]


def test_a_plan_is_the_same_twice() -> None:
    assert changed() == set()


def test_the_order_of_packages_does_not_matter() -> None:
    packages = list(load("devbox").debian.packages)
    reversed_text = str(packages[::-1]).replace("'", '"')
    assert changed(f"debian.packages={reversed_text}") == set()


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("system.hostname=other", {"system"}),
        ("node.npm=10", {"node"}),
        ("debian.suite=trixie", {"debian", "rust", "system", "agent"}),
        ("free=0", set()),
    ],
)
def test_a_changed_value_changes_what_depends_on_it(override: str, names: set[str]) -> None:
    assert changed(override) == names


def test_changed_code_changes_what_it_makes_and_what_reads_that() -> None:
    assert changed(node="2") == {"node"}
    assert changed(debian="2") == {"debian", "rust", "system", "agent"}


def test_another_agent_is_another_layer() -> None:
    assert changed(agent="b") == {"agent"}


def test_the_architecture_is_part_of_every_layer_with_programs() -> None:
    other = {s.name: s for s in plan_layers(load("devbox"), "aarch64", code=CODE, agent="a")}
    assert all(step.digest != other[name].digest for name, step in plan().items())


def test_where_toolchains_come_from_is_in_the_plan() -> None:
    assert {name: step.inputs.kind for name, step in plan().items() if name in {"node", "rust"}} == {
        "node": "node", "rust": "rust",
    }  # fmt: skip
    other = plan("devbox", "rust.source=rustup", "rust.channel=beta", "node.source=nodejs.org")
    assert other["rust"].inputs == RustupInputs("x86_64", "beta", ("clippy", "rustfmt"), None)
    assert other["rust"].after == (), "it reads nothing of Debian's tree"
    assert other["node"].inputs == NodeArchiveInputs("x86_64", "20", None)


def test_debian_has_the_packages_of_its_own_toolchain_only() -> None:
    assert set(RUST_PACKAGES) <= set(debian_packages())
    assert not set(RUST_PACKAGES) & set(debian_packages("rust.source=rustup"))
    assert set(debian_packages()) - set(RUST_PACKAGES) == set(debian_packages("rust.source=rustup"))


def debian_packages(*overrides: str) -> tuple[str, ...]:
    inputs = plan("devbox", *overrides)["debian"].inputs
    assert isinstance(inputs, DebianInputs)
    return inputs.packages


def test_another_server_is_another_layer() -> None:
    first, second = (plan("devbox", "rust.source=rustup", f"rust.server=http://{host}") for host in "ab")
    assert first["rust"].digest != second["rust"].digest
