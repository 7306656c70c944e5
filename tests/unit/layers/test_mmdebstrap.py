"""What is made of mmdebstrap's output: progress, and the cause of a failure."""

from __future__ import annotations

import io

import pytest

from bouvet.layers import mmdebstrap

# Lines of a real run, shortened.
LINES = """\
I: running apt-get update...
Get:1 http://mirror.example/debian bookworm InRelease [151 kB]
Get:3 http://mirror.example/debian bookworm/main amd64 Packages [8790 kB]
Get:1 http://mirror.example/debian bookworm/main amd64 base-files amd64 12.4+deb12u12 [70.9 kB]
Get:2 http://mirror.example/debian bookworm/main amd64 libc6 amd64 2.36-9+deb12u14 [2756 kB]
Get:1 http://mirror.example/debian bookworm/main amd64 jq amd64 1.6-2.1 [64.9 kB]
I: 3 packages to install
Unpacking base-files (12.4+deb12u12) ...
Unpacking libc6:amd64 (2.36-9+deb12u14) ...
Setting up libc6:amd64 (2.36-9+deb12u14) ...
Setting up base-files (12.4+deb12u12) ...
Unpacking jq (1.6-2.1) ...
Setting up jq (1.6-2.1) ...
I: success in 30.1 seconds
I: reading the tree
"""


def test_progress_only_grows_and_names_packages() -> None:
    reports: list[tuple[str, float | None]] = []
    progress = mmdebstrap.Progress(lambda message, fraction: reports.append((message, fraction)))
    for line in LINES.splitlines():
        progress.take(line)
    fractions = [fraction for _, fraction in reports if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] == 0.95
    messages = [message for message, _ in reports]
    assert messages[0] == "reading the mirror's package lists"
    assert {"downloading libc6", "unpacking libc6", "setting up jq", "reading the tree"} <= set(messages)
    two_thirds = 0.2 + (0.95 - 0.2) * 4 / 6
    assert dict(reports)["setting up base-files"] == pytest.approx(two_thirds)


def test_the_log_is_read_to_its_end() -> None:
    lines: list[str] = []
    log = mmdebstrap.Log(io.BytesIO(b"one\ntwo \xff\r\nlast"), lambda *_: None, lines.append)
    log.join(timeout=10)
    assert not log.is_alive()
    assert lines == ["one", "two \ufffd", "last"] == list(log.tail)


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        (["E: Unable to locate package nosuch"], "no package 'nosuch'", "main"),
        (["E: Package 'virt' has no installation candidate"], "'virt' cannot be installed", "virtual"),
        (["dpkg: error: write: No space left on device", "E: Failed to fetch x"], "disk is full", "space"),
        (["Err:1 http://x bookworm InRelease", "  Could not connect to x"], "server x cannot", "proxy"),
        (["E: Failed to fetch https://u:p@box:80/dists/x  timed out"], "server box:80 cannot", "proxy"),
        (["  Could not resolve 'box.example'"], "server box.example cannot", "proxy"),
        (["E: Failed to fetch x"], "mirror cannot be read", "proxy"),
        (["E: The repository 'http://x bookworm' is not signed."], "signature", "keyring"),
    ],
)
def test_the_cause_of_a_failure_is_named(lines: list[str], message: str, hint: str) -> None:
    error = mmdebstrap.failure(["mmdebstrap", "a b"], 25, ["I: fine", *lines, "E: apt-get failed"])
    assert message in error.message
    assert hint in str(error.hint)
    assert error.details[0] == "command: mmdebstrap 'a b'"
    assert error.details[-1] == "E: apt-get failed"


def test_an_unknown_failure_shows_its_last_lines() -> None:
    error = mmdebstrap.failure(["mmdebstrap"], 1, [f"line {number}" for number in range(100)])
    assert "status 1" in error.message
    assert error.hint is None
    assert error.details[-1] == "line 99"
    assert len(error.details) == 41
