"""What apt is told: the script and the archives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.layers import apt, cargo, npm_packages, pip
from bouvet.layers.client_settings import client_settings
from bouvet.layers.mmdebstrap import find_cause
from bouvet.layers.writer import LayerWriter
from bouvet.plan.inputs import AptInputs, AptSourceInputs, CargoInputs, NpmInputs, PipInputs
from tests.unit.layers.bench import bench

SOURCE = AptSourceInputs("own", ("http://127.0.0.1/debian",), ("stable",), ("main", "more"), ("amd64",), "k")
INPUTS = AptInputs("x86_64", ("git", "jq"), ("nano",), (SOURCE,))


def test_a_source_is_signed_by_its_key_or_trusted() -> None:
    assert apt.source_text(SOURCE, "/etc/apt/keyrings/own.asc").splitlines() == [
        "Types: deb",
        "URIs: http://127.0.0.1/debian",
        "Suites: stable",
        "Components: main more",
        "Architectures: amd64",
        "Signed-By: /etc/apt/keyrings/own.asc",
    ]
    assert apt.source_text(SOURCE, None).splitlines()[-1] == "Trusted: yes"


@pytest.mark.parametrize("fresh", [True, False])
def test_the_script_is_one_of_the_shell(fresh: bool) -> None:
    text = apt.script(INPUTS, ["/etc/apt/sources.list.d/own.sources"], fresh=fresh)
    subprocess.run(["/bin/sh", "-n"], input=text.encode(), check=True, timeout=10)
    assert "apt install --purge git jq nano-" in text
    assert text.index("added-0") < text.index("apt install")
    # Lists that are old are read again first; new ones only when something is not found.
    assert (text.index("apt update") < text.index("apt install")) is not fresh
    assert "apt autoremove --purge" in text


def test_nothing_is_removed_that_nobody_asked_for() -> None:
    assert "autoremove" not in apt.script(AptInputs("x86_64", ("jq",), (), ()), [], fresh=True)


def test_what_apt_says_is_explained() -> None:
    found = find_cause(["Reading package lists...", "E: Unable to locate package jqq"])
    assert found is not None
    assert "'jqq'" in found[0]
    assert find_cause(["something else"]) is None


@pytest.mark.parametrize(
    ("maker", "inputs", "said"),
    [
        (apt, INPUTS, "no apt"),
        (pip, PipInputs("x86_64", ("six",), ()), "no pip"),
        (npm_packages, NpmInputs("x86_64", ("left-pad",), ()), "no npm"),
        (cargo, CargoInputs("x86_64", ("ripgrep",), ()), "no cargo"),
    ],
)
def test_a_tree_without_the_package_manager_is_refused(
    tmp_path: Path, maker: object, inputs: object, said: str
) -> None:
    layer = LayerWriter(tmp_path)
    with pytest.raises(LayerError, match=said) as caught:
        maker.make(inputs, bench(tmp_path, {}).workshop, layer)  # type: ignore[attr-defined]
    layer.close()
    assert caught.value.hint


def test_the_users_settings_reach_the_tree_but_no_paths_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificates")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/opt/wheels")
    settings = client_settings("PIP_")
    assert settings.environment["PIP_INDEX_URL"] == "http://127.0.0.1/simple"
    assert "PIP_FIND_LINKS" not in settings.environment
    assert settings.environment["PIP_CERT"] == "/run/bouvet/certificates.pem"
    assert settings.files == {"certificates.pem": b"certificates"}
