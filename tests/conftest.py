"""What all tests share: markers that say what a test needs, a cache of their own, and a check for leaks."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bouvet.errors import ToolMissing
from bouvet.vm.accelerator import choose_accelerator
from bouvet.vm.kernel import KernelCache, parse_kernel
from bouvet.vm.machine import Accelerator

TOOL_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
"""Debian keeps administrators' programs off an ordinary user's PATH; bouvet finds them all the same."""

USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
"""The user's own cache, before tests are given another."""

REQUIRABLE = frozenset({"root", "kvm", "tools", "kernel"})
"""What BOUVET_REQUIRE may list: what a test may then not be skipped for the lack of."""

SECONDS_TO_BUILD = 1800.0
"""How long an image may take whose packages have to be downloaded over a slow line."""

SECONDS_TO_VANISH = 3.0
"""How long a process may outlive the test that started it: the kernel needs a moment for a killed one."""


def pytest_configure() -> None:
    """Let signals reach what tests start, also where a shell or nohup has started the tests.

    Those have SIGINT and SIGHUP ignored, and programs inherit that; a handler they do not inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


# --- Markers ------------------------------------------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that lacks what its markers name, or fail it where BOUVET_REQUIRE demands that."""
    for kind, lack in _lacks(item):
        if kind in required():
            pytest.fail(f"{lack}, and BOUVET_REQUIRE demands it", pytrace=False)
        pytest.skip(lack)


def pytest_report_header() -> list[str]:
    """Tell what is there, and what may not be missing."""
    user = "root" if is_root() else f"user {os.geteuid()}, not root"
    return [f"bouvet: {user}; BOUVET_REQUIRE={','.join(sorted(required())) or '(nothing)'}"]


def required() -> frozenset[str]:
    """Return what BOUVET_REQUIRE lists, with `all` spelled out."""
    names = frozenset(filter(None, os.environ.get("BOUVET_REQUIRE", "").split(",")))
    if unknown := names - REQUIRABLE - {"all"}:
        raise pytest.UsageError(f"BOUVET_REQUIRE: {sorted(unknown)} is none of {sorted(REQUIRABLE)} and all")
    return REQUIRABLE if "all" in names else names


def is_root() -> bool:
    """Return whether the tests run as root."""
    return os.geteuid() == 0


@functools.cache
def has_tool(name: str) -> bool:
    """Return whether a program is installed."""
    return shutil.which(name, path=TOOL_PATH) is not None


@functools.cache
def lack_of_kvm() -> str | None:
    """Return why KVM cannot be used, or None. Where there is a device a guest is run to find out."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "needs /dev/kvm"
    cache = USER_CACHE / "bouvet" / "kernels"
    try:
        kernel = KernelCache(cache).get(parse_kernel("debian", platform.machine()))
        choice = choose_accelerator(kernel, cache)
    except ToolMissing as error:
        return f"needs KVM: {error.message}"
    return None if choice.accelerator is Accelerator.KVM else f"needs KVM: {choice.reason}"


@functools.cache
def lack_of_kernel(feature: str) -> str | None:
    """Return why this process cannot use what a kernel may offer, or None.

    feature: `resizing` of mounted file systems, or the name of a file system.
    """
    if feature == "resizing":
        # Root in a container often has no CAP_SYS_RESOURCE, the bit 24 of capabilities(7).
        status = Path("/proc/self/status").read_text()
        (effective,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
        return None if int(effective, 16) >> 24 & 1 else "needs CAP_SYS_RESOURCE"
    if feature not in _filesystems() and has_tool("modprobe"):
        program = shutil.which("modprobe", path=TOOL_PATH)
        subprocess.run([str(program), "--quiet", feature], timeout=60, check=False)
    return None if feature in _filesystems() else f"needs {feature} in the kernel"


def _filesystems() -> list[str]:
    return Path("/proc/filesystems").read_text().split()


def _lacks(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Yield the kind and a description of each thing that a test needs and does not have."""
    if item.get_closest_marker("needs_root") and not is_root():
        yield "root", "needs root"
    for marker in item.iter_markers("needs_tool"):
        if missing := [name for name in marker.args if not has_tool(name)]:
            yield "tools", f"needs {', '.join(missing)}"
    if item.get_closest_marker("needs_kvm") and (lack := lack_of_kvm()):
        yield "kvm", lack
    for marker in item.iter_markers("needs_kernel"):
        yield from [("kernel", lack) for feature in marker.args if (lack := lack_of_kernel(feature))]


# --- Caches -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests away from the user's cache. The Go compiler's own is shared: it is keyed by content."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOCACHE", os.environ.get("GOCACHE", str(USER_CACHE / "go-build")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test, in XDG_CACHE_HOME as well; the path of bouvet's directory in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bouvet"


# --- Images -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuiltImage:
    """An image that `bouvet build` has made, for all tests of a run; they must not change it.

    Attributes:
        path: The ext4 file.
        agent: The guest agent's binary beside it.
        digest: The digest over what it was made from.
        size: Its size in bytes.
    """

    path: Path
    agent: Path
    digest: str
    size: int


@pytest.fixture(scope="session")
def base_image() -> Iterator[BuiltImage]:
    """The preset `base`: the smallest image that boots and serves."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as directory:
        yield build_image("base", Path(directory))


@pytest.fixture(scope="session")
def devbox_image() -> Iterator[BuiltImage]:
    """The preset `devbox`: the image of `make rootfs`, which fills the same cache."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as directory:
        yield build_image("devbox", Path(directory))


@pytest.fixture(scope="session")
def other_base_image() -> Iterator[BuiltImage]:
    """The preset `base` for the architecture that this host does not have."""
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="bouvet-test-") as directory:
        yield build_image("base", Path(directory), "--arch", other)


def build_image(preset: str, directory: Path, *options: str) -> BuiltImage:
    """Build an image as a user does, with the layers of the user's cache."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("bouvet"),
            "build",
            preset,
            "--output",
            directory,
            "--json",
            *options,
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(USER_CACHE)},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_BUILD,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return BuiltImage(Path(result["image"]), Path(result["agent"]), result["digest"], result["size"])


# --- Leaks --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none can slip away."""
    pr_set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@pytest.fixture(autouse=True)
def _no_leaks(_adopt_orphans: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a process running or something mounted.

    Fixtures of a wider scope are set up before this one, so what they start is not the test's.
    """
    base = str(tmp_path_factory.getbasetemp())
    before = set(children())
    mounted = mounts_below(base)
    yield
    deadline = time.monotonic() + SECONDS_TO_VANISH
    left = [
        f"process {child}: {command_line(child)}"
        for child in sorted(set(children()) - before)
        if not _ended(child, deadline)
    ]
    left += [f"mount {point}" for point in sorted(mounts_below(base) - mounted)]
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


def children() -> list[int]:
    """Return the process ids of this process's children, ended ones that nobody waited for included."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(word) for word in (task / "children").read_text().split()]
        except FileNotFoundError:  # the thread has ended since
            continue
    return found


def command_line(child: int) -> str:
    """Return a process's command line, or an empty string if it is gone."""
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def mounts_below(directory: str) -> set[str]:
    """Return the mount points in a directory: others may mount elsewhere meanwhile."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return {point for point in points if point.startswith(directory + "/")}


def _ended(child: int, deadline: float) -> bool:
    """Wait until a process has ended or the deadline has passed, and reap it."""
    try:
        descriptor = os.pidfd_open(child)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return False
        # Nobody else waits for an adopted orphan.
        os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass
    finally:
        os.close(descriptor)
    return True


@pytest.fixture(scope="session")
def wait_for_exit() -> Callable[[int, float], bool]:
    """Wait for a process, by its id, to end; give up after some seconds. Return whether it has."""
    return lambda process, seconds: _ended(process, time.monotonic() + seconds)
