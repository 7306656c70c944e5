"""The kernel that a spec names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.errors import SpecError
from bouvet.spec import load

DIGEST = "0" * 64
GOOD = f"""
extends = "base"
[kernel]
source = "url"
url.x86_64 = "https://example.org/vmlinux"
url.aarch64 = "https://example.org/Image"
sha256.x86_64 = "{DIGEST}"
sha256.aarch64 = "{DIGEST}"
"""


def spec(tmp_path: Path, text: str) -> str:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return str(path)


def test_the_kernel_is_debian_s_unless_said_otherwise() -> None:
    assert load("base").kernel.name("x86_64") == "debian"


def test_each_architecture_has_its_own(tmp_path: Path) -> None:
    kernel = load(spec(tmp_path, GOOD)).kernel
    assert kernel.name("x86_64") == f"url:https://example.org/vmlinux#sha256={DIGEST}"
    assert kernel.name("aarch64") == f"url:https://example.org/Image#sha256={DIGEST}"


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        (f'sha256.x86_64 = "{DIGEST}"', "kernel.sha256.x86_64: is missing"),
        ('url.aarch64 = "https://example.org/Image"', "kernel.url.aarch64: is missing"),
        ('source = "url"', "mean nothing without"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, removed: str, said: str) -> None:
    assert removed in GOOD
    with pytest.raises(SpecError) as raised:
        load(spec(tmp_path, GOOD.replace(removed, "")))
    assert said in "\n".join([raised.value.message, *raised.value.details])


def test_a_digest_is_a_digest(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        load(spec(tmp_path, GOOD.replace(DIGEST, "0" * 63)))
    assert "kernel.sha256" in "\n".join([raised.value.message, *raised.value.details])
