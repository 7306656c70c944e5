"""What a plan was made from, in a form that can be kept, and what differs from it later.

Secrets are left out, and long texts are kept as digests: who reads the cache learns no password, and a
record stays small. A change that a record cannot show is still a change of the step's digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from bouvet.plan.steps import Step

_SECRETS = frozenset({"password", "root_password"})
_SECRET_PAIRS = frozenset({"environment"})
_LONGEST = 80

Record = dict[str, Any]
"""The steps by name, each with `digest`, `code`, `after` (names and digests) and `inputs`; JSON."""


def record_of(steps: Sequence[Step]) -> Record:
    """Return what a plan's steps were made from."""
    digests = {step.name: step.digest for step in steps}
    return {
        step.name: {
            "digest": step.digest,
            "code": step.code,
            "after": {name: digests[name] for name in step.after},
            "inputs": {"kind": step.inputs.kind} | _public(dataclasses.asdict(step.inputs)),
        }
        for step in steps
    }


def reasons(step: Step, steps: Sequence[Step], before: Record) -> list[str]:
    """Return why a step is another one than it was, in words; nothing if it is the same.

    Args:
        step: A step of the plan.
        steps: The whole plan.
        before: The record of the last build; whatever it holds is taken as it is.
    """
    old = before.get(step.name)
    if not isinstance(old, dict):
        return ["it is new in the plan"] if before else ["this was not built before"]
    if old.get("digest") == step.digest:
        return []
    new = record_of(steps)[step.name]
    found = _differences(old.get("inputs"), new["inputs"])
    if old.get("code") != new["code"]:
        found.append("bouvet's code for it changed")
    kept = old.get("after")
    below: dict[str, Any] = kept if isinstance(kept, dict) else {}
    changed = [name for name, digest in new["after"].items() if below.get(name) not in {None, digest}]
    added = [name for name in new["after"] if name not in below]
    removed = [name for name in below if name not in new["after"]]
    # What changed lowest is the reason of all above it.
    found += [f"the step below it, {name}, changed" for name in changed[:1]]
    found += [f"the step {name} is new below it" for name in added]
    found += [f"the step {name} is gone from below it" for name in removed]
    return found or ["a secret value changed"]


def _public(value: Any) -> Any:
    """Return inputs as JSON, without secrets and with long texts as digests."""
    if isinstance(value, Mapping):
        return {
            key: _names(each) if key in _SECRET_PAIRS else _public(each)
            for key, each in value.items()
            if key not in _SECRETS
        }
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    if isinstance(value, str) and (len(value) > _LONGEST or "\n" in value):
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value


def _names(pairs: Any) -> list[str]:
    """Return the names of variables: their values may be secrets."""
    return [name if name != "PATH" else f"PATH={value}" for name, value in pairs]


def _differences(old: Any, new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two steps' inputs, a line each."""
    if not isinstance(old, dict):
        return ["its inputs are not on record"]
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key == "locked":
            found += _lock_differences(before, after)
            continue
        if isinstance(before, list) and isinstance(after, list):
            found += _list_differences(key, before, after)
        elif any(str(each).startswith("sha256:") for each in (before, after)):
            found.append(f"{key} changed")
        else:
            found.append(f"{key} is {_shown(after)}, was {_shown(before)}")
    return found


def _lock_differences(before: Any, after: Any) -> list[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ["a lock is used" if isinstance(after, dict) else "no lock is used"]
    rows = [each.get("artifacts") for each in (before, after)]
    if not all(isinstance(each, list) for each in rows) or rows[0] == rows[1]:
        return ["the lock changed"]
    return _list_differences("the lock", rows[0] or [], rows[1] or [])


def _list_differences(key: str, before: list[Any], after: list[Any]) -> list[str]:
    named = {_name(each): each for each in before}, {_name(each): each for each in after}
    added = [name for name in named[1] if name not in named[0]]
    removed = [name for name in named[0] if name not in named[1]]
    changed = [name for name, each in named[1].items() if name in named[0] and named[0][name] != each]
    found = [
        f"{key}: {what} {', '.join(names)}"
        for what, names in (("added", added), ("removed", removed), ("changed", changed))
        if names
    ]
    return found or [f"{key}: another order"]


def _name(value: Any) -> str:
    """Return what a list's entry is called: a table's path or name, else the entry itself."""
    if isinstance(value, dict):
        return str(value.get("path") or value.get("name") or value)
    return str(value)


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
