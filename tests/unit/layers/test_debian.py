"""mmdebstrap's command line, sources and environment, without running it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.layers import debian
from bouvet.plan.steps import DebianInputs

INPUTS = DebianInputs(
    architecture="x86_64",
    suite="bookworm",
    mirror=None,
    packages=("curl", "systemd"),
    exclude=("/usr/share/doc/*", "/usr/share/man/*"),
    include=("/usr/share/doc/*/copyright",),
)


def test_excluded_paths_come_before_the_exceptions() -> None:
    # dpkg lets the last pattern that matches decide.
    text = debian.dpkg_settings(INPUTS.exclude, INPUTS.include)
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "path-exclude=/usr/share/doc/*",
        "path-exclude=/usr/share/man/*",
        "path-include=/usr/share/doc/*/copyright",
    ]


def test_no_mirror_is_mmdebstraps_own_default() -> None:
    assert debian.sources(INPUTS) == []


def test_a_mirror_serves_updates_and_security_as_well() -> None:
    inputs = replace(INPUTS, mirror="http://mirror.example/debian/")
    assert debian.sources(inputs) == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


def test_whole_source_lines_are_taken_as_they_are() -> None:
    lines = ["deb http://a.example/x bookworm main", "deb http://b.example/y bookworm-security main contrib"]
    assert debian.sources(replace(INPUTS, mirror="\n".join(lines))) == lines


def test_a_mirror_whose_security_archive_is_unknown_is_refused() -> None:
    with pytest.raises(LayerError) as caught:
        debian.sources(replace(INPUTS, mirror="http://mirror.example/pub"))
    assert "SUITE main" in str(caught.value.hint)


@pytest.mark.needs_tool("mmdebstrap")
def test_the_command_line(tmp_path: Path) -> None:
    scratch = tmp_path / "a b"
    scratch.mkdir()
    directories = debian.Directories(scratch)
    argv = debian.command(INPUTS, directories.write_settings(INPUTS), directories)
    assert "--architectures=amd64" in argv
    assert argv[-2:] == ["bookworm", str(scratch / "tree")]
    hooks = [word for word in argv if "-hook=" in word]
    assert all(str(scratch) not in hook or f"'{scratch}" in hook for hook in hooks), "a path is not quoted"
    assert any("lib64 sbin" in hook for hook in hooks)


@pytest.mark.needs_tool("mmdebstrap")
def test_the_links_of_merged_usr_depend_on_the_architecture(tmp_path: Path) -> None:
    directories = debian.Directories(tmp_path)
    inputs = replace(INPUTS, architecture="aarch64", packages=())
    argv = debian.command(inputs, directories.write_settings(inputs), directories)
    assert "--architectures=arm64" in argv
    assert not any("lib64 sbin" in word for word in argv)


def test_packages_scripts_see_the_proxy_and_nothing_else_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaks = {
        "SECRET": "s",
        "PATH": "/home/me/bin",
        "XDG_CACHE_HOME": "/home/me/c",
        "APT_CONFIG": "/home/me/apt",
    }
    for name, value in {**leaks, "SOURCE_DATE_EPOCH": "1", "http_proxy": "http://127.0.0.1:3128"}.items():
        monkeypatch.setenv(name, value)
    environment = debian.build_environment(tmp_path)
    assert environment["http_proxy"] == "http://127.0.0.1:3128"
    assert environment["TMPDIR"] == str(tmp_path)
    assert "SOURCE_DATE_EPOCH" not in environment
    assert not set(leaks.values()) & set(environment.values())
    assert "/home/me" not in str(environment)
