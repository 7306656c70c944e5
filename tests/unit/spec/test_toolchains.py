"""Where toolchains come from, and what goes together."""

from __future__ import annotations

from typing import Any

import pytest

from bouvet.spec import Spec
from bouvet.spec.toolchains import toolchain_contradictions

FINGERPRINT = "6F71F525282841EEDAF851B42F59B5F99B1BE0B4"
ARCHIVE = {"server": "https://example.org/node_20.x", "key": "/etc/key.asc", "fingerprint": FINGERPRINT}


@pytest.mark.parametrize(
    "data",
    [
        {"node": {}, "rust": {}},
        {"node": {"npm": "10"}},
        {"node": {"source": "nodejs.org", "version": "22", "server": "http://127.0.0.1/dist"}},
        {"node": {"source": "nodesource", **ARCHIVE}},
        {"node": {"source": "nodesource", **ARCHIVE, "key": "keys/nodesource.asc"}},
        {"rust": {"source": "rustup"}},
        {"rust": {"source": "rustup", "channel": "nightly-2026-05-20", "components": ["rust-src"]}},
        {"rust": {"source": "rustup", "channel": "1.96.0", "server": "https://example.org"}},
    ],
)
def test_what_goes_together(data: dict[str, Any]) -> None:
    spec = Spec.model_validate(data)
    # Written out with every default it means the same.
    assert Spec.model_validate(spec.model_dump()) == spec
    assert list(toolchain_contradictions(spec.model_dump(mode="json"))) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"node": {"server": "http://127.0.0.1"}}, "node.server: means nothing with node.source = 'npm'"),
        ({"node": {"source": "nodejs.org", "npm": "11"}}, "node.npm: means nothing"),
        ({"node": {"source": "nodejs.org", "key": "/x"}}, "node.key: means nothing"),
        ({"node": {"source": "nodesource"}}, "node: needs server, key, fingerprint"),
        (
            {"from": "oci:image", "node": {"source": "nodesource", **ARCHIVE}},
            r"node.source: NodeSource's packages come with a tree of \[debian\]",
        ),
        ({"rust": {"channel": "beta"}}, "rust.channel: means nothing with rust.source = 'debian'"),
        ({"rust": {"components": ["clippy"]}}, "rust.components: means nothing"),
    ],
)
def test_what_does_not(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spec.model_validate(data)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("rust", "source", "rustp"),
        ("rust", "channel", "stable-2026"),
        ("rust", "channel", "../../stable"),
        ("rust", "channel", "latest"),
        ("rust", "components", ["a b"]),
        ("rust", "server", "file:///etc"),
        ("rust", "server", "https://"),
        ("rust", "server", "https://example.org/?x"),
        ("node", "source", "brew"),
        ("node", "server", "nodejs.org/dist"),
        ("node", "fingerprint", "F1E0B4"),
        ("node", "key", ""),
        ("node", "key", "file:///etc/key.asc"),
        ("node", "key", "two\nlines"),
    ],
)
def test_values_that_are_wrong(table: str, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        Spec.model_validate({table: {"source": "rustup" if table == "rust" else "nodejs.org", key: value}})


@pytest.mark.parametrize("data", [{"rust": 1}, {"rust": {"source": 3}}, {"node": {"source": ["npm"]}}, {}])
def test_data_of_another_form_has_no_contradictions(data: dict[str, Any]) -> None:
    assert list(toolchain_contradictions(data)) == []
