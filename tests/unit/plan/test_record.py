"""Why a step runs: what differs from the last build's record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bouvet.plan import Step, plan_layers
from bouvet.plan.record import Record, reasons, record_of
from bouvet.spec import Spec

KINDS = ("debian", "apt", "users", "files", "run", "system", "agent", "pip")
BEFORE: dict[str, Any] = {
    "apt": {"add": ["jq"]},
    "users": [{"name": "dev", "password": "hunter22"}],
    "files": [{"path": "/etc/motd", "content": "one"}],
    "run": [{"script": "make\n", "env": {"TOKEN": "hunter33"}}],
    "system": {"root_password": "hunter44", "environment": {"KEY": "hunter55"}},
}


def plan(data: dict[str, Any], content: str = "c1", code: str = "1") -> list[Step]:
    spec = Spec.model_validate(data)
    codes = dict.fromkeys(KINDS, code)
    return plan_layers(spec, "x86_64", code=codes, agent="a", content={"files /etc/motd": content})


def record(data: dict[str, Any]) -> Record:
    kept: Record = json.loads(json.dumps(record_of(plan(data))))
    return kept


def why(name: str, data: dict[str, Any], content: str = "c1", code: str = "1") -> list[str]:
    steps = plan(data, content, code)
    return reasons(next(step for step in steps if step.name == name), steps, record(BEFORE))


def test_nothing_changed() -> None:
    assert all(why(step.name, BEFORE) == [] for step in plan(BEFORE))


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        ("apt", {"apt": {"add": ["git", "jq"]}}, ["add: added git"]),
        ("apt", {"apt": {"add": ["git"]}}, ["add: added git", "add: removed jq"]),
        ("apt", {"apt": {"add": ["jq"], "remove": ["nano"]}}, ["remove: added nano"]),
        ("system", {"system": BEFORE["system"] | {"hostname": "box"}}, ["hostname is box, was bouvet"]),
        ("system", {"system": {**BEFORE["system"], "root_password": "x"}}, ["a secret value changed"]),
        ("run-1", {"run": [{**BEFORE["run"][0], "script": "make all\n"}]}, ["script changed"]),
        ("run-1", {"run": [{**BEFORE["run"][0], "network": True}]}, ["network is true, was false"]),
        ("users", {"users": [{"name": "dev", "password": "other"}]}, ["a secret value changed"]),
        ("users", {"users": [{"name": "ops"}]}, ["users: added ops", "users: removed dev"]),
        ("files", {"apt": {"add": ["git", "jq"]}}, ["the step below it, apt, changed"]),
        ("pip", {"pip": {"packages": ["six"]}}, ["it is new in the plan"]),
    ],
)  # fmt: skip
def test_what_changed_is_named(step: str, change: dict[str, Any], said: list[str]) -> None:
    assert why(step, BEFORE | change) == said


def test_changed_content_and_code_are_named() -> None:
    assert why("files", BEFORE, content="c2") == ["files: changed /etc/motd"]
    assert why("debian", BEFORE, code="2") == ["bouvet's code for it changed"]
    assert why("run-1", {key: value for key, value in BEFORE.items() if key != "files"}) == [
        "the step files is gone from below it"
    ]


def test_a_first_build_and_damaged_records() -> None:
    steps = plan(BEFORE)
    assert reasons(steps[0], steps, {}) == ["this was not built before"]
    damaged: list[Record] = [{"debian": 1}, {"debian": {}}, {"debian": {"inputs": [], "after": 3}}]
    for record_ in damaged:
        assert reasons(steps[0], steps, record_)


def test_no_secret_is_kept() -> None:
    assert "hunter" not in json.dumps(record(BEFORE))
