"""The house rules of the tests themselves: needs are resolved, leaks are found. Run on tests made here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Plugins that these small runs need not wait for.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")


def outcome(directory: Path, body: str, **environment: str) -> tuple[dict[str, int], str]:
    """Run tests under a copy of the project's conftest; return the counts and the whole output."""
    shutil.copy(ROOT / "tests" / "conftest.py", directory)
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "tests").mkdir()
    (directory / "tests" / "test_made.py").write_text("import pytest\n" + textwrap.dedent(body))
    inherited = {name: value for name, value in os.environ.items() if name != "BOUVET_REQUIRE"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *WITHOUT, "--basetemp", directory / "base"],
        cwd=directory,
        env=inherited | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    return counts, done.stdout + done.stderr


LACKING_TOOL = """
    @pytest.mark.needs_tool("sh", "no-such-program")
    def test_with_tool():
        assert False
"""


def test_a_missing_tool_is_told_and_skips(tmp_path: Path) -> None:
    counts, output = outcome(tmp_path, LACKING_TOOL)
    assert counts == {"skipped": 1}
    assert "needs no-such-program" in output


@pytest.mark.parametrize("value", ["tools", "all", "root,tools"])
def test_a_missing_tool_fails_where_tools_are_required(tmp_path: Path, value: str) -> None:
    counts, output = outcome(tmp_path, LACKING_TOOL, BOUVET_REQUIRE=value)
    assert "failed" in counts or "error" in counts
    assert "needs no-such-program, and BOUVET_REQUIRE demands it" in output


def test_another_requirement_does_not_fail_it(tmp_path: Path) -> None:
    assert outcome(tmp_path, LACKING_TOOL, BOUVET_REQUIRE="kvm")[0] == {"skipped": 1}


def test_an_unknown_requirement_is_refused(tmp_path: Path) -> None:
    counts, output = outcome(tmp_path, LACKING_TOOL, BOUVET_REQUIRE="tool")
    assert counts == {}
    assert "['tool'] is none of" in output


LACKING_FILE_SYSTEM = """
    @pytest.mark.needs_kernel("proc", "no-such-file-system")
    def test_with_file_system():
        assert False
"""


def test_a_kernel_without_a_file_system_is_told_and_skips(tmp_path: Path) -> None:
    counts, output = outcome(tmp_path, LACKING_FILE_SYSTEM, BOUVET_REQUIRE="tools")
    assert counts == {"skipped": 1}
    assert "needs no-such-file-system in the kernel" in output


@pytest.mark.parametrize("value", ["kernel", "all"])
def test_it_fails_where_the_kernel_is_required(tmp_path: Path, value: str) -> None:
    counts, output = outcome(tmp_path, LACKING_FILE_SYSTEM, BOUVET_REQUIRE=value)
    assert "failed" in counts or "error" in counts
    assert "needs no-such-file-system in the kernel, and BOUVET_REQUIRE demands it" in output


def test_a_file_system_that_is_there_is_no_hindrance(tmp_path: Path) -> None:
    body = """
        @pytest.mark.needs_kernel("proc")
        def test_with_file_system():
            pass
    """
    assert outcome(tmp_path, body, BOUVET_REQUIRE="kernel")[0] == {"passed": 1}


def test_tools_that_are_there_are_no_hindrance(tmp_path: Path) -> None:
    body = """
        @pytest.mark.needs_tool("sh")
        def test_with_tool():
            pass
    """
    assert outcome(tmp_path, body, BOUVET_REQUIRE="tools")[0] == {"passed": 1}


def test_a_process_left_running_fails_its_test_and_no_other(tmp_path: Path) -> None:
    body = """
        import os, signal, subprocess

        def test_leaky():
            script = "sleep 1000 >/dev/null 2>&1 & echo $!"
            os.environ["LEFT"] = subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout

        def test_after_it():
            os.kill(int(os.environ["LEFT"]), signal.SIGKILL)
    """
    counts, output = outcome(tmp_path, body)
    assert counts == {"passed": 2, "error": 1}
    assert re.search(r"left behind: process \d+: sleep 1000", output)


def test_a_fixture_of_a_wider_scope_may_keep_its_process(tmp_path: Path) -> None:
    body = """
        import subprocess

        @pytest.fixture(scope="module")
        def server():
            with subprocess.Popen(["sleep", "1000"]) as child:
                yield child
                child.kill()

        def test_first(server):
            assert server.poll() is None

        def test_second(server):
            assert server.poll() is None
    """
    assert outcome(tmp_path, body)[0] == {"passed": 2}


@pytest.mark.needs_root
def test_a_mount_left_behind_fails_its_test(tmp_path: Path) -> None:
    body = """
        import os, subprocess

        def test_leaky(tmp_path):
            os.environ["LEFT"] = str(tmp_path)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)

        def test_after_it():
            subprocess.run(["umount", os.environ["LEFT"]], check=True)
    """
    counts, output = outcome(tmp_path, body)
    assert counts == {"passed": 2, "error": 1}
    assert "left behind: mount" in output


def test_the_users_cache_is_out_of_reach(tmp_path: Path) -> None:
    body = """
        import os
        from pathlib import Path

        def test_cache(tmp_path_factory):
            assert Path(os.environ["XDG_CACHE_HOME"]).is_relative_to(tmp_path_factory.getbasetemp())

        def test_empty_cache(empty_cache):
            assert not empty_cache.exists()
            assert empty_cache.parent == Path(os.environ["XDG_CACHE_HOME"])
    """
    assert outcome(tmp_path, body)[0] == {"passed": 2}
