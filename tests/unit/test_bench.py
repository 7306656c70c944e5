"""The benchmarks' common part: one table of what several scripts have measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

SCRIPT = """
import sys
from pathlib import Path
from rows import Row, write_json
assert sys.argv[1] == "--json"
write_json(Path(sys.argv[2]), [Row("copy", 3.0, "s", "cp", 2.0, "at most 1.25"), Row("size", 5.5, "MB")], {})
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """The runner, with a benchmark that measures nothing and one that fails."""
    directory = tmp_path / "bench"
    directory.mkdir()
    for name in ("__main__.py", "rows.py"):
        shutil.copy(BENCH / name, directory)
    (directory / "copying.py").write_text(SCRIPT)
    (directory / "failing.py").write_text("raise SystemExit('no kernel')")
    return directory


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_all_rows_are_in_one_table_and_one_document(bench: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.md"
    history.write_text("# History\n")
    done = run(bench, "copying", "--json", tmp_path / "all.json", "--history", history)
    assert done.returncode == 0, done.stderr
    line = "| copying | copy | 3 s | cp | 2 s | 1.50 | at most 1.25 |"
    assert line in done.stdout
    assert line in history.read_text().splitlines()
    assert history.read_text().startswith("# History\n\n## 20")
    document = json.loads((tmp_path / "all.json").read_text())
    assert [(row["benchmark"], row["what"], row["ratio"]) for row in document["rows"]] == [
        ("copying", "copy", 1.5),
        ("copying", "size", None),
    ]
    assert {"processor", "load", "Linux", "bouvet", "QEMU"} <= document["machine"].keys()


def test_one_that_fails_is_told_and_the_others_run(bench: Path, tmp_path: Path) -> None:
    done = run(bench, "failing", "copying", "--json", tmp_path / "all.json")
    assert done.returncode == 1
    assert "no kernel" in done.stderr
    assert done.stderr.endswith("failed: failing\n")
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["failed"] == ["failing"]
    assert len(document["rows"]) == 2


def test_an_unknown_one_is_told_with_those_that_there_are(bench: Path) -> None:
    done = run(bench, "copy")
    assert done.returncode == 2
    assert "choose from copying, failing" in done.stderr


def test_each_script_runs_alone_and_is_listed() -> None:
    readme = (BENCH / "README.md").read_text()
    scripts = [path for path in BENCH.glob("*.py") if path.stem not in {"__main__", "rows"}]
    for script in scripts:
        done = run(script, "--help")
        assert done.returncode == 0, done.stderr
        assert "--json" in done.stdout
        assert f"`{script.name}`" in readme
