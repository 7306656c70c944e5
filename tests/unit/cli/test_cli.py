"""The command line: its help, errors and exit statuses, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bouvet.cli.main import COMMANDS, cli
from bouvet.cli.options import make_order
from bouvet.errors import (
    AgentError,
    BouvetError,
    CacheError,
    CommandFailed,
    FormatError,
    ImageError,
    LayerError,
    MachineError,
    SpecError,
    ToolMissing,
    VerifyFailed,
)
from bouvet.plan.lock import ImageLock, StepLock, format_lock


def bouvet(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from bouvet.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
    )


@pytest.mark.parametrize(
    "command", [[], *([name] for name in COMMANDS), ["spec", "show"], ["cache", "prune"]]
)
def test_every_command_has_help(command: list[str]) -> None:
    done = bouvet(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: bouvet")


def every_command(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from every_command(found, f"{name} {below}")


@pytest.mark.parametrize(("name", "command"), list(every_command(cli, "bouvet")))
def test_help_keeps_the_lines_of_examples(name: str, command: click.Command) -> None:
    lines = command.get_help(click.Context(command, info_name=name)).splitlines()
    examples = [line.strip() for line in lines if line.startswith("    bouvet ")]
    assert all(example.count("bouvet ") == 1 or "|" in example for example in examples)
    assert not any("\\b" in line or "\b" in line for line in lines)
    if name == "bouvet run":
        assert "bouvet run devbox.ext4 -- python3 --version" in examples


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a command after '--'"),
        (["-c", "1"], "-c needs --lang"),
        (["-t", "--json"], "no output for a terminal"),
        (["-t", "--lang", "sh", "-c", "1"], "--lang gives no terminal"),
        (["-i", "--lang", "sh"], "not both"),
        (["--lang", "sh", "/missing/script"], "cannot read /missing/script"),
        (["--env", "=1", "--", "true"], "names no variable"),
        (["--env", "SURELY_NOT_SET", "--", "true"], "is not set here"),
        (["--upload", "here", "--", "true"], "is not FROM:TO"),
        (["--download", ":there", "--", "true"], "is not FROM:TO"),
        (["--timeout", "0", "--", "true"], "range"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_boots(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    image = tmp_path / "image.ext4"
    image.touch()
    done = bouvet("run", str(image), *arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "awaited"),
    [
        ("bouvet r", "run"),
        ("bouvet run --ti", "--timeout"),
        ("bouvet run --lang py", "python"),
        ("bouvet run --env MARK", "MARKER_OF_THIS_TEST"),
        ("bouvet build dev", "devbox"),
        ("bouvet lock base --update deb", "debian"),
    ],
)
def test_a_shell_completes_commands_options_and_values(
    words: str, awaited: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lock = ImageLock("base", "x86_64", "0" * 64, steps={"debian": StepLock("0" * 64)})
    Path("bouvet.lock").write_text(format_lock({("base", "x86_64"): lock}))
    monkeypatch.setenv("MARKER_OF_THIS_TEST", "1")
    monkeypatch.setenv("_BOUVET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    # As its console script is called: by that name, and to complete it.
    program = "from bouvet.cli.main import cli; cli.main(prog_name='bouvet')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"plain,{awaited}" in done.stdout.splitlines()


def test_the_version() -> None:
    assert bouvet("--version").stdout.startswith("bouvet ")


def test_each_error_has_an_exit_status_of_its_own() -> None:
    classes = [
        BouvetError, SpecError, ToolMissing, CommandFailed, LayerError, CacheError, ImageError, FormatError,
        VerifyFailed, MachineError, AgentError,
    ]  # fmt: skip
    assert [one.exit_code for one in classes] == list(range(1, 12))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "devbx"], "did you mean 'devbox'"),
        (["build", "--size", "12X"], "is no size"),
        (["build", "--arch", "mips"], "x86_64"),
        (["build", "--profile", "/"], "is a directory"),
        (["boot", "/dev/null", "--svg", "x.svg"], "--timings"),
        (["build", "--set", "colour=1"], "colour"),
        (["nonsense"], "nonsense"),
        (["spec", "show", "/missing/spec.toml"], "cannot read"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = bouvet(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_spec_is_shown_with_its_defaults() -> None:
    shown = json.loads(bouvet("spec", "show", "base", "--set", "system.hostname=box").stdout)
    assert shown["system"]["hostname"] == "box"
    assert shown["free"] == 64 << 20


def test_the_schema_lists_the_keys() -> None:
    schema = json.loads(bouvet("spec", "schema").stdout)
    assert {"debian", "node", "rust", "system", "size", "free"} <= set(schema["properties"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = bouvet("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "_BOUVET_COMPLETE" in done.stdout


def test_starting_imports_no_more_than_it_needs() -> None:
    late = ("pydantic", "rich", "bouvet.pipeline")
    program = f"import bouvet.cli, sys; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_empty_cache_is_listed(empty_cache: Path) -> None:
    assert json.loads(bouvet("cache", "ls", "--json").stdout) == []
    assert json.loads(bouvet("cache", "prune", "--all", "--json").stdout) == []
    assert empty_cache.is_dir()


def test_rustups_own_variable_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSTUP_DIST_SERVER", "http://127.0.0.1:1")
    source = "rust.source=rustup"

    def server(preset: str, *overrides: str) -> object:
        rust = make_order(preset, None, None, overrides).spec.rust
        return rust and rust.server

    assert server("devbox", source) == "http://127.0.0.1:1"
    assert server("devbox", source, "rust.server=http://127.0.0.1:2") == "http://127.0.0.1:2"
    assert server("devbox") is None
    assert server("base") is None
    monkeypatch.setenv("RUSTUP_DIST_SERVER", "not a URL")
    with pytest.raises(SpecError):
        server("devbox", source)
