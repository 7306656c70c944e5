"""Starting programs: real ones, well-behaved and not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bouvet import process
from bouvet.errors import CommandFailed, ToolMissing

MIB = 1 << 20
WaitForExit = Callable[[int, float], bool]


def shell(script: str) -> list[str]:
    """Return the command that runs a shell script."""
    return ["sh", "-c", script]


def python(script: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python script."""
    return [sys.executable, "-c", textwrap.dedent(script), *arguments]


# --- What comes back ----------------------------------------------------------------------------------


def test_status_and_both_streams_come_back() -> None:
    done = process.run(shell("printf out; printf err >&2; exit 3"), ok=(0, 3))
    assert (done.status, done.stdout, done.stderr) == (3, b"out", b"err")
    assert done.argv == tuple(shell("printf out; printf err >&2; exit 3"))
    assert 0 < done.seconds < 60


def test_output_that_is_no_text_comes_back_unchanged() -> None:
    done = process.run(python("import sys; sys.stdout.buffer.write(bytes(range(256)))"))
    assert done.stdout == bytes(range(256))


def test_both_pipes_are_drained_at_once() -> None:
    """A program that fills one pipe while the other is being read must not block for ever."""
    script = """
        import os
        for _ in range(16):
            os.write(2, b"e" * 65536)
            os.write(1, b"o" * 65536)
    """
    done = process.run(python(script), timeout=60)
    assert done.stdout == b"o" * MIB
    assert done.stderr == b"e" * MIB


def test_input_reaches_the_program_while_it_answers() -> None:
    content = os.urandom(4 * MIB)
    assert process.run(["cat"], input=content, timeout=60).stdout == content


def test_a_program_may_leave_its_input_unread() -> None:
    assert process.run(["true"], input=bytes(4 * MIB), timeout=60).status == 0


def test_without_input_nothing_can_be_read() -> None:
    assert process.run(["cat"], timeout=60).stdout == b""
    assert process.run(["readlink", "/proc/self/fd/0"]).stdout == b"/dev/null\n"


def test_lines_are_passed_on_as_they_come() -> None:
    lines: list[str] = []
    process.run(shell(r"echo one; printf '\377two\n\nlast'"), on_line=lines.append)
    assert lines == ["one", "\N{REPLACEMENT CHARACTER}two", "", "last"]


def test_lines_of_both_streams_are_passed_on() -> None:
    lines: list[str] = []
    process.run(shell("echo out; echo err >&2"), on_line=lines.append)
    assert sorted(lines) == ["err", "out"]


def test_an_error_in_the_listener_ends_the_program(wait_for_exit: WaitForExit) -> None:
    seen: list[int] = []

    def refuse(line: str) -> None:
        seen.append(int(line))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        process.run(shell("echo $$; exec sleep 1000"), on_line=refuse)
    assert wait_for_exit(seen[0], 5)


# --- What a program is given --------------------------------------------------------------------------


def environment_of(done: process.Completed) -> dict[str, str]:
    """Return the environment that `env -0` printed."""
    pairs = (entry.partition("=") for entry in done.stdout.decode().split("\0") if entry)
    return {name: value for name, _, value in pairs}


def test_the_environment_is_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("https_proxy", "http://localhost:1")
    seen = environment_of(process.run(["env", "-0"]))
    assert set(seen) <= {"PATH", "HOME", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"}
    assert (seen["LC_ALL"], seen["TZ"]) == ("C.UTF-8", "UTC")
    assert "/usr/sbin" in seen["PATH"].split(":")


def test_network_settings_are_passed_on_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://localhost:1")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    environment = process.clean_environment({"EXTRA": "1"}, network=True)
    seen = environment_of(process.run(["env", "-0"], env=environment))
    assert seen["https_proxy"] == "http://localhost:1"
    assert seen["EXTRA"] == "1"
    assert "SECRET_TOKEN" not in seen


def test_the_umask_is_fixed() -> None:
    before = os.umask(0o077)
    try:
        assert process.run(shell("umask")).stdout == b"0022\n"
    finally:
        os.umask(before)


def test_a_program_works_where_it_is_told(tmp_path: Path) -> None:
    assert process.run(["pwd"], cwd=tmp_path).stdout.decode() == f"{tmp_path}\n"


def test_no_descriptor_is_inherited_but_those_passed() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        with process.start(shell(f"echo passed >/proc/self/fd/{writing}"), pass_fds=[writing]) as child:
            assert child.wait(60) == 0
        assert os.read(reading, 100) == b"passed\n"
        process.run(shell(f"test ! -e /proc/self/fd/{reading} && test ! -e /proc/self/fd/{writing}"))
    finally:
        os.close(reading)
        os.close(writing)


def test_arguments_are_never_a_shells() -> None:
    odd = ["$(id)", "a b", "*", "new\nline", "'", ""]
    done = process.run(["printf", "%s|", *odd])
    assert done.stdout == b"".join(argument.encode() + b"|" for argument in odd)


# --- Failures -----------------------------------------------------------------------------------------


def test_a_failure_says_what_can_be_said() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.run(shell("echo quiet; echo 'no such thing' >&2; exit 7"), hint="look elsewhere")
    error = caught.value
    assert error.message == "sh ended with status 7"
    assert error.hint == "look elsewhere"
    assert error.details == (
        """command: sh -c 'echo quiet; echo '"'"'no such thing'"'"' >&2; exit 7'""",
        "no such thing",
    )


def test_the_command_in_a_failure_can_be_pasted() -> None:
    odd = ["false", "a b", "$HOME", "it's", ""]
    with pytest.raises(CommandFailed) as caught:
        process.run(odd)
    command = caught.value.details[0].removeprefix("command: ")
    printed = subprocess.run(
        ["sh", "-c", f"set -- {command}; printf '%s|' \"$@\""], capture_output=True, check=True
    )
    assert printed.stdout == b"".join(argument.encode() + b"|" for argument in odd)


def test_a_failure_carries_the_last_lines_only() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.run(shell("seq 100 >&2; exit 1"))
    _, *tail = caught.value.details
    assert tail == [str(number) for number in range(101 - process.TAIL_LINES, 101)]


def test_a_program_that_is_silent_on_stderr_is_quoted_from_stdout() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.run(shell("echo 'went wrong'; exit 1"))
    assert caught.value.details[1:] == ("went wrong",)


def test_a_signal_is_called_by_its_name() -> None:
    with pytest.raises(CommandFailed, match="was killed by SIGSEGV"):
        process.run(shell("kill -SEGV $$"))


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(ToolMissing, match="'no-such-program'") as caught:
        process.find_tool("no-such-program", package="some-package")
    assert caught.value.hint == "apt-get install some-package"
    with pytest.raises(ToolMissing, match="'no-such-program'"):
        process.run(["no-such-program"])


def test_a_path_that_cannot_be_executed_is_a_missing_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for path in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(ToolMissing, match=path.name):
            process.run([str(path)])


def test_administrators_programs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert process.find_tool("ldconfig").endswith("sbin/ldconfig")


# --- Ends ---------------------------------------------------------------------------------------------


def test_a_timeout_kills_the_whole_group(wait_for_exit: WaitForExit) -> None:
    started = time.monotonic()
    with pytest.raises(CommandFailed, match=r"ran longer than 0\.5 s") as caught:
        process.run(shell("sleep 1000 & echo $!; echo $$; wait"), timeout=0.5)
    assert time.monotonic() - started < 5
    _, *pids = caught.value.details
    assert len(pids) == 2
    assert all(wait_for_exit(int(pid), 5) for pid in pids)


def test_a_program_that_ignores_sigterm_is_killed(wait_for_exit: WaitForExit) -> None:
    with pytest.raises(CommandFailed, match="ran longer") as caught:
        process.run(shell("trap '' TERM; echo $$; while :; do sleep 1000; done"), timeout=0.5)
    assert wait_for_exit(int(caught.value.details[1]), 1)


def test_a_program_may_clean_up_at_the_end_of_the_block(tmp_path: Path) -> None:
    mark = tmp_path / "cleaned"
    script = f"trap 'touch {mark}; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    with process.start(shell(script)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    assert mark.exists()


def test_the_end_of_the_block_ends_children_whose_parent_has_gone(wait_for_exit: WaitForExit) -> None:
    with process.start(shell("sleep 1000 & echo $!")) as child:
        assert child.stdout is not None
        orphan = int(child.stdout.readline())
        assert child.wait(60) == 0
        assert not wait_for_exit(orphan, 0)
    assert wait_for_exit(orphan, 5)


def _helper(script: str) -> tuple[subprocess.Popen[str], int]:
    """Start a Python that uses `process`; return it and the number that it prints."""
    helper = subprocess.Popen(python(script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert helper.stdout is not None
    return helper, int(helper.stdout.readline())


def test_a_killed_bouvet_leaves_nothing_running(wait_for_exit: WaitForExit) -> None:
    helper, child = _helper("""
        from bouvet import process
        process.run(["sh", "-c", "echo $$; exec sleep 1000"], on_line=lambda line: print(line, flush=True))
    """)
    with helper:
        helper.kill()
    assert wait_for_exit(child, 5)


def test_an_interrupt_ends_the_program_first(wait_for_exit: WaitForExit) -> None:
    helper, child = _helper("""
        from bouvet import process
        process.run(
            ["sh", "-c", "sleep 1000 & echo $!; wait"], on_line=lambda line: print(line, flush=True)
        )
    """)
    with helper:
        helper.send_signal(signal.SIGINT)
        _, errors = helper.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert wait_for_exit(child, 5)


def test_a_grandchild_that_keeps_the_pipes_does_not_hold_the_result_up(wait_for_exit: WaitForExit) -> None:
    started = time.monotonic()
    done = process.run(shell("sleep 1000 & echo $!; exit 3"), ok=(3,), timeout=60)
    assert time.monotonic() - started < process.PIPE_GRACE + 5
    assert done.status == 3
    assert wait_for_exit(int(done.stdout), 5)


def test_what_a_grandchild_writes_soon_after_is_kept() -> None:
    """The pipes are read to their end, not to the end of the program that was started."""
    late = "import os, select, sys; select.select([], [], [], 0.2); os.write(1, b'late')"
    done = process.run(python(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {late!r}])"))
    assert done.stdout == b"late"


def test_stopping_twice_does_no_harm() -> None:
    with process.start(["sleep", "1000"]) as child:
        process.stop(child)
        process.stop(child)
        assert child.returncode == -signal.SIGTERM


STUBBORN = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("started", flush=True)
    while True:
        signal.pause()
"""


@pytest.mark.parametrize(
    "program",
    [shell("echo started; exec sleep 1000"), python(STUBBORN)],
    ids=["ends of SIGTERM", "ignores SIGTERM"],
)
def test_what_other_threads_run_is_ended(program: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    started = threading.Event()
    failures: list[CommandFailed] = []

    def work() -> None:
        try:
            process.run(program, on_line=lambda _line: started.set(), timeout=60)
        except CommandFailed as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert started.wait(60)
    with process.stopping():
        worker.join(30)
    assert [error.message.rpartition(" ")[2] in ("SIGTERM", "SIGKILL") for error in failures] == [True]


def test_nothing_is_started_while_other_work_is_being_ended() -> None:
    with process.stopping(), pytest.raises(CommandFailed, match="being ended"):
        process.run(["true"])
    assert process.run(["true"]).status == 0


@pytest.mark.needs_root
def test_the_first_process_of_a_namespace_ends_when_it_is_asked_to() -> None:
    script = """
        import signal
        from bouvet import process
        process.end_on_sigterm()
        print("started", flush=True)
        while True:
            signal.pause()
    """
    with process.start(["unshare", "--pid", "--fork", "--kill-child", *python(script)]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        os.killpg(child.pid, signal.SIGTERM)
        assert child.wait(30) == 1
