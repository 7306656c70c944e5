"""Specs that extend others: chains, what is merged, and where paths lead."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bouvet.errors import SpecError
from bouvet.spec import Spec, json_schema, load, starter


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_preset_is_extended(tmp_path: Path) -> None:
    spec = load(
        write(
            tmp_path / "own.toml",
            """
            extends = "devbox"
            rust = false
            [debian]
            packages = ["postgresql", "git"]
            [system]
            hostname = "box"
            path = ["/usr/bin"]
            [system.environment]
            EDITOR = "vim"
            """,
        )
    )
    preset = load("devbox")
    assert spec.debian.packages == (*preset.debian.packages, "postgresql")
    assert (spec.rust, spec.node) == (None, preset.node)
    assert (spec.system.hostname, spec.system.path) == ("box", ("/usr/bin",))
    assert dict(spec.system.environment) == {**preset.system.environment, "EDITOR": "vim"}


def test_a_chain_of_files_with_paths_of_their_own(tmp_path: Path) -> None:
    write(
        tmp_path / "shared/base.toml",
        """
        [[files]]
        path = "/a"
        source = "a.txt"
        [[files]]
        path = "/b"
        content = "parent"
        [[apt.sources]]
        name = "own"
        uris = ["https://packages.example.org"]
        suites = ["./"]
        key = "keys/own.asc"
        [[run]]
        name = "build"
        script = "true"
        """,
    )
    write(tmp_path / "shared/middle.toml", 'extends = "base.toml"\n[[users]]\nname = "dev"\n')
    spec = load(
        write(
            tmp_path / "project/own.toml",
            """
            extends = "../shared/middle.toml"
            [[files]]
            path = "/b"
            content = "child"
            [[files]]
            path = "/c"
            source = "."
            [[run]]
            script = "false"
            """,
        )
    )
    assert [(file.path, file.source, file.content) for file in spec.files] == [
        ("/a", "../shared/a.txt", None),
        ("/b", None, "child"),
        ("/c", ".", None),
    ]
    assert spec.apt.sources[0].key == "../shared/keys/own.asc"
    assert [run.name for run in spec.run] == ["build", None]
    assert [user.name for user in spec.users] == ["dev"]


def test_a_circle_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", 'extends = "two.toml"')
    write(tmp_path / "two.toml", 'extends = "./one.toml"')
    with pytest.raises(SpecError, match="extends itself") as caught:
        load(one)
    assert "two.toml" in caught.value.details[0]


def test_a_long_chain_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"{number}.toml", f'extends = "{number + 1}.toml"')
    with pytest.raises(SpecError, match="more than"):
        load(str(tmp_path / "0.toml"))


@pytest.mark.parametrize("value", ['"devbx"', '"missing.toml"', "3", '""'])
def test_what_cannot_be_extended(tmp_path: Path, value: str) -> None:
    with pytest.raises(SpecError):
        load(write(tmp_path / "own.toml", f"extends = {value}"))


def test_errors_of_a_parent_are_told_with_its_name(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'colour = 1\n[[files]]\npath = "/a"\nmode = "9"\ncontent = ""\n')
    with pytest.raises(SpecError) as caught:
        load(write(tmp_path / "own.toml", 'extends = "base.toml"\n[[files]]\npath = "b"\ncontent = ""\n'))
    details = [line.removeprefix(str(tmp_path) + "/") for line in caught.value.details]
    assert [re.split(r" \(|: is no", line)[0] for line in details] == [
        "base.toml: files[0].mode",
        "base.toml: colour",
        "files[0].path",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('from = "oci:dir"\n[debian]\nsuite = "bookworm"', "from: "),
        ('from = "docker:alpine"', "from ("),
        ('[[files]]\npath = "/a"', "files[0]: needs either"),
        ('[[files]]\npath = "/a"\ncontent = ""\nsource = "x"', "files[0]: needs either"),
        ('[[files]]\npath = "/a/"\ncontent = ""', "files[0]: a path that ends in '/'"),
        ('[[files]]\npath = "/a/../b"\ncontent = ""', "files[0].path"),
        ('[[files]]\npath = "/a"\ncontent = "${X}"\ntemplate = true', "files[0].content: ${X} has no value"),
        (
            '[[files]]\npath = "/a"\ncontent = ""\n[[files]]\npath = "/a"\ncontent = ""',
            "files[1].path: '/a' is",
        ),
        ('[[run]]\nscript = "x"\ncaches = ["yarn"]', "run[0].caches[0]"),
        ('[[users]]\nname = "root"', "users[0]: root is there"),
        ('[services]\nenable = ["a"]\ndisable = ["a"]', "services: 'a'"),
        ('[apt]\nadd = ["a1"]\nremove = ["a1"]', "apt: 'a1'"),
        (
            '[[apt.sources]]\nname = "x"\nuris = ["http://h"]\nsuites = ["s"]',
            "apt.sources[0]: needs its 'key'",
        ),
        ('[pip]\npackages = ["--index-url=x"]', "pip.packages[0]"),
        ('[npm]\npackages = ["-g"]', "npm.packages[0]"),
        ('[cargo]\npackages = ["https://x"]', "cargo.packages[0]"),
        ('[system]\nlocale = "en_US.UTF-8"\nenvironment = {LANG = "C"}', "system.environment.LANG"),
        ('[system]\ntimezone = "../etc"', "system.timezone"),
        ('[[test.commands]]\nname = "x"\nrun = "x"\nexpect_status = 256', "test.commands[0].expect_status"),
        ('formats = ["iso"]', "formats[0]"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(write(tmp_path / "own.toml", text))
    assert any(line.startswith(said) for line in caught.value.details), caught.value.details


@pytest.mark.parametrize(
    "requirement", ["requests", "requests==2.32.*", "uvicorn[standard]>=0.30,<1", "a ~= 1.0", "a_b.c"]
)
def test_requirements_of_pip(requirement: str) -> None:
    assert Spec.model_validate({"pip": {"packages": [requirement]}}).pip.packages == (requirement,)


def test_the_starter_is_a_spec_and_so_is_what_its_comments_show(tmp_path: Path) -> None:
    assert load(write(tmp_path / "starter.toml", starter())).system.hostname == "box"
    shown = re.sub(r"(?m)^# (?=[A-Za-z_]+ = |\[)", "", starter())
    spec = load(write(tmp_path / "shown.toml", shown))
    assert spec.run[0].user == spec.users[0].name == "dev"
    assert spec.apt.sources
    assert spec.test.commands


def test_the_schema_knows_every_key_and_no_null() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    assert '"null"' not in text
    assert {"extends", "from", "apt", "files", "run", "max_size"} <= set(schema["properties"])
    for name, table in {"": schema, **schema["$defs"]}.items():
        assert table["additionalProperties"] is False, name
        for key, each in table["properties"].items():
            assert "description" in each or "$ref" in each or "anyOf" in each, f"{name}.{key}"
