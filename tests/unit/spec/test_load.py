"""Specs: presets, files, single values, and everything that is wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.errors import SpecError
from bouvet.spec import Spec, load, parse_size, presets


def refused(tmp_path: Path, text: str) -> SpecError:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(str(path))
    return caught.value


def test_the_presets_are_valid() -> None:
    assert presets() == ["base", "devbox"]
    assert load("devbox").node is not None
    assert load("base").node is None


def test_an_empty_file_is_a_spec(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    spec = load(str(tmp_path / "empty.toml"))
    assert spec == Spec()
    assert (spec.label, spec.free) == ("bouvet-rootfs", 64 << 20)


def test_specs_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("base").label = "other"  # type: ignore[misc]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        """
        free = "12X"
        size = "1G"
        colour = 1
        [debian]
        packges = []
        packages = ["Foo!", "git"]
        [slim]
        exclude = [{path = "usr/share/man/*", reason = "nobody reads it"}]
        [node]
        version = "latest"
        [rust]
        channel = "beta"
        [system]
        hostname = "a b"
        path = ["bin"]
        environment = {PATH = "/bin", "A-B" = "x", C = "two\\nlines"}
        """,
    )
    for path in (
        "free",
        "size",
        "colour",
        "debian.packges",
        "debian.packages[0]",
        "slim.exclude[0].path",
        "node.version",
        "rust.channel",
        "system.hostname",
        "system.path[0]",
        "system.environment.PATH",
        "system.environment.A-B",
        "system.environment.C",
    ):
        assert any(line.startswith((f"{path}:", f"{path} ", f"{path}.")) for line in error.details), path
    assert error.exit_code == 2
    assert error.hint


def test_an_unknown_key_names_the_one_that_was_meant(tmp_path: Path) -> None:
    assert "did you mean 'packages'" in refused(tmp_path, "[debian]\npackges = []").details[0]


def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in refused(tmp_path, "a = 1\nb = = 2").message


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        load("devbx")
    assert "devbox" in (caught.value.hint or "")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SpecError, match="No such file"):
        load("./missing.toml")


def test_single_values_are_replaced() -> None:
    spec = load("devbox", ["system.hostname=box", "free=0", "node.npm=10"])
    assert (spec.system.hostname, spec.free) == ("box", 0)


def test_an_empty_password_locks_the_account() -> None:
    assert load("devbox").system.root_password == "root"
    assert load("devbox", ["system.root_password="]).system.root_password is None


@pytest.mark.parametrize(
    "text", ["hostname", "=x", "system..hostname=x", "free.x=1", "system.hostnam=x", "debian.packages=["]
)
def test_a_bad_replacement_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        load("devbox", ["free=1M", text])


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1), (7, 7), ("64M", 64 << 20), ("64MiB", 64 << 20), ("2 g", 2 << 30), ("1T", 1 << 40)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "M", "12X", True, 1.5, None, "17T", "9999999999999999"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"size|range"):
        parse_size(text)


def test_contradictions_are_found_in_specs_made_by_hand_too() -> None:
    with pytest.raises(ValueError, match="means nothing with rust"):
        Spec.model_validate({"rust": {"server": "http://127.0.0.1"}})
