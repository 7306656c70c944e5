"""What an image must do when it runs: checks inside the booted guest.

Each check is a shell program that the guest's agent runs: exit status 0 is passed, and the last line of
its output is what was found. What the guest prints is shown, never believed beyond that.
"""

from __future__ import annotations

import concurrent.futures
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bouvet.errors import AgentError
from bouvet.image.expectation import UNKNOWN_PASSWORD, Expectation, OwnTest
from bouvet.image.report import Row
from bouvet.image.requirements.tools import PROGRAMS
from bouvet.sandbox import Sandbox

CHECK_SECONDS = 300.0
"""How long a check may take: an emulated guest compiles slowly."""

_FOUND = 200
_SYSTEM = "Booted system"
_RUNTIMES = "Running programs"
_TOOLS = "Running tools"
_OWN = "The image's own tests"
_OVERLAY = "/ is an overlay, mounted read-write"

_PYTHON_EXTENSION = r"""
set -e; cd "$(mktemp -d)"
python3 -m venv --without-pip venv
cat > answer.c <<'END'
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(6 * 7); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "answer", NULL, -1, methods};
PyMODINIT_FUNC PyInit_answer(void) { return PyModule_Create(&module); }
END
gcc -shared -fPIC $(python3-config --includes) answer.c -o venv/lib/python3.11/site-packages/answer.so
venv/bin/python -c 'import sys, answer; assert sys.prefix != sys.base_prefix; assert answer.answer() == 42'
python3 -m pip --version >&2; python --version
"""

_NODE_SERVER = r"""
set -e; npm --version >&2; npx --version >&2
node -e '
const http = require("http");
const server = http.createServer((request, response) => response.end("answer " + request.url));
server.listen(0, "127.0.0.1", () => http.get({port: server.address().port, path: "/42"}, response => {
  response.on("data", data => {
    server.close();
    if (String(data) !== "answer /42") process.exit(1);
    console.log(process.version + ", npm and npx answer");
  });
}));'
"""

_RUST_PROJECT = r"""
set -e; cd "$(mktemp -d)"
cargo new --quiet answer; cd answer
cat > src/main.rs <<'END'
fn main() {
    println!("{}", 6 * 7);
}
END
cargo build --quiet --offline; test "$(target/debug/answer)" = 42
cargo clippy --quiet --offline -- -D warnings; cargo fmt --check
rustc --version
"""

_C_PROJECT = r"""
set -e; cd "$(mktemp -d)"
echo 'int answer(void) { return 42; }' > answer.c
cat > main.cpp <<'END'
#include <iostream>
extern "C" int answer(void);
int main() { std::cout << answer() << std::endl; }
END
cat > CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.20)
project(answer C CXX)
add_executable(answer answer.c main.cpp)
END
for compilers in "gcc g++" "clang clang++"; do
  set -- $compilers
  cmake -S . -B "build-$1" -DCMAKE_C_COMPILER="$1" -DCMAKE_CXX_COMPILER="$2" > /dev/null
  cmake --build "build-$1" > /dev/null
  test "$("build-$1/answer")" = 42
done
echo "$(gcc -dumpversion), clang $(clang -dumpversion), $(cmake --version | head -n 1)"
"""

_BASH = r"""
exec bash -c 'set -e; declare -A map=([answer]=42); (( map[answer] == 42 ))
echo "$BASH_VERSION"; [[ $BASH_VERSION == 5.2* ]]'
"""

# How tools say that they work, where it is not `--version`.
_ANSWERS = {
    "ssh": "ssh -V",
    "scp": "test -x $(command -v scp)",
    "ssh-keygen": "ssh-keygen -q -t ed25519 -N '' -f $(mktemp -u)",
    "ip": "ip -V",
    "ss": "ss -V",
    "ping": "ping -V",
    "dig": "dig -v",
    "nslookup": "nslookup -version",
    "dhclient-script": "test -x $(command -v dhclient-script)",
    "unzip": "unzip -v",
    "zip": "zip -v",
    "cmake": "cmake --version",
}


@dataclass(frozen=True, slots=True)
class GuestCheck:
    """A shell program that says whether a requirement is met.

    Attributes:
        area: As of `Row`.
        requirement: As of `Row`.
        program: Run by `sh -c` as root in `/root`.
    """

    area: str
    requirement: str
    program: str


def guest_checks(expected: Expectation, *, disk_size: int, overlay: bool = False) -> list[GuestCheck]:
    """Return the checks of an image that is as expected, on a disk of so many bytes.

    Args:
        expected: What the image must be.
        disk_size: The size of the disk that the guest writes to.
        overlay: Whether that disk is laid over the image, which is read-only.
    """
    if expected.container:
        return [*_container_checks(expected, disk_size, overlay), *map(own_check, expected.tests)]
    return [
        *_system_checks(expected, disk_size, overlay),
        *_runtime_checks(expected),
        *_tool_checks(expected),
        *map(own_check, expected.tests),
    ]


def own_check(test: OwnTest) -> GuestCheck:
    """Return the check of one of the image's own tests. Its pattern is the image's: the guest matches it."""
    lines = [f"output=$(sh -c {shlex.quote(test.run)} 2>&1 < /dev/null)", "status=$?", 'echo "$output"']
    wrong = f"exit status $status, not {test.status}"
    lines.append(f'test $status = {test.status} || {{ echo "{wrong}" >&2; exit 1; }}')
    if test.output is not None:
        pattern = shlex.quote(test.output)
        lines.append(f'echo "$output" | grep -Eq -e {pattern} || {{')
        lines.append(f'  echo "no line matches" {pattern} >&2; exit 1')
        lines.append("}")
    return GuestCheck(_OWN, test.name, "\n".join(lines))


def check_guest(
    sandbox: Sandbox, checks: Sequence[GuestCheck], *, done: Callable[[Row, float], None]
) -> list[Row]:
    """Run the checks in a guest, as many at a time as it has processors; return a row for each.

    Args:
        sandbox: The guest.
        checks: The checks.
        done: Told of each row, and which fraction of all is done, as it comes.
    """
    rows: list[Row] = []
    lock = threading.Lock()

    def run(check: GuestCheck) -> Row:
        row = _run(sandbox, check)
        with lock:
            rows.append(row)
            done(row, len(rows) / len(checks))
        return row

    with concurrent.futures.ThreadPoolExecutor(sandbox.machine.config.cpus) as pool:
        return list(pool.map(run, checks))


def check_state(sandbox: Sandbox, *, timeout: float) -> Row:
    """Wait until the guest's system has started; return the row about its state."""
    try:
        state = sandbox.system_state(timeout=timeout)
        failed = sandbox.run("systemctl --failed --plain --no-legend", timeout=CHECK_SECONDS).stdout
    except AgentError as error:
        return Row(_SYSTEM, "the system is running, no unit failed", False, one_line(error.message))
    passed = state == "running" and not failed.strip()
    return Row(_SYSTEM, "the system is running, no unit failed", passed, one_line(f"{state} {failed}"))


def check_own_init(sandbox: Sandbox) -> Row:
    """Return the row about an init that is not systemd: the agent's program has to be it."""
    program = "read words < /proc/1/comm; echo $words; test $words = init -o $words = bouvet-agent"
    return _run(sandbox, GuestCheck(_SYSTEM, "the image has no systemd; the agent is its init", program))


def check_login_prompt(sandbox: Sandbox, hostname: str, *, timeout: float) -> Row:
    """Wait for the serial console's login prompt."""
    prompt = f"{hostname} login:".encode()
    seen = threading.Event()
    recent = bytearray()

    def look(piece: bytes) -> None:
        recent.extend(piece)
        if prompt in recent:
            seen.set()
        del recent[: -len(prompt)]

    sandbox.machine.mirror_console(look)
    try:
        earlier = any(prompt.decode() in line for line in sandbox.machine.console_tail(100))
        passed = earlier or seen.wait(timeout)
    finally:
        sandbox.machine.mirror_console(None)
    found = prompt.decode() if passed else "no prompt on the console"
    return Row(_SYSTEM, "a login prompt on the serial console", passed, found)


def machine_id(sandbox: Sandbox) -> str:
    """Return the id that the guest's system gave itself at its first boot."""
    wait = "while ! [ -s /etc/machine-id ]; do sleep 0.05; done; cat /etc/machine-id"
    return sandbox.run(wait, timeout=CHECK_SECONDS).stdout.strip()


def compare_machine_ids(first: str, second: str) -> Row:
    """Return the row about the ids of two boots."""
    valid = all(re.fullmatch(r"[0-9a-f]{32}", one) for one in (first, second))
    passed = valid and first != second
    return Row(_SYSTEM, "a machine-id of its own in each boot", passed, one_line(f"{first} and {second}"))


def one_line(text: str) -> str:
    """Return what a guest said as one printable line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text.strip())[:_FOUND]


def _run(sandbox: Sandbox, check: GuestCheck) -> Row:
    try:
        result = sandbox.run(check.program, timeout=CHECK_SECONDS)
    except AgentError as error:
        return Row(check.area, check.requirement, False, one_line(error.message))
    lines = result.stdout.strip().splitlines() or ["ok"]
    if result.exit_code:
        lines = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()
        lines[-1] = f"exit code {result.exit_code}: {lines[-1]}"
    return Row(check.area, check.requirement, result.exit_code == 0, one_line(lines[-1]))


def _system_checks(expected: Expectation, disk_size: int, overlay: bool) -> Iterator[GuestCheck]:
    host = shlex.quote(expected.hostname)
    yield GuestCheck(
        _SYSTEM,
        "host name, which resolves",
        f"uname -n; test $(uname -n) = {host} && getent hosts localhost && getent hosts {host}",
    )
    if overlay:
        program = "findmnt -n -o SOURCE,FSTYPE,OPTIONS / | grep -E '^overlay +overlay +rw'"
        yield GuestCheck(_SYSTEM, _OVERLAY, program)
    else:
        yield GuestCheck(
            _SYSTEM,
            "/ is /dev/vda, mounted read-write as fstab says",
            "findmnt -n -o SOURCE,OPTIONS / | grep -E '^/dev/vda +rw' "
            "&& grep -Fx '/dev/vda / ext4 defaults 0 1' /etc/fstab",
        )
    # Bitmaps, inode tables and the journal are no part of what statfs counts.
    yield GuestCheck(
        _SYSTEM,
        "/ has grown to the disk's size",
        f'size=$(($(stat -f -c "%b * %S" /))); echo "$size of {disk_size} bytes"; '
        f"test $size -ge {disk_size * 19 // 20}",
    )
    path = ":".join(expected.path)
    yield GuestCheck(
        _SYSTEM,
        "commands start in /root with the image's PATH",
        f'echo "$PWD $PATH"; test "$PWD $PATH" = {shlex.quote(f"/root {path}")}',
    )
    for name, value in expected.environment:
        setting = f'test "${name}" = {shlex.quote(value)}'
        login = f"bash -lc {shlex.quote(setting)}"
        yield GuestCheck(
            _SYSTEM, f"{name} for commands and login shells", f'echo "${name}"; {setting} && {login}'
        )
    yield _password_check(expected.root_password)
    if expected.agent:
        yield GuestCheck(_SYSTEM, "the agent's unit is active", "systemctl is-active bouvet-agent.service")


def _container_checks(expected: Expectation, disk_size: int, overlay: bool) -> Iterator[GuestCheck]:
    """Yield what holds for any distribution's tree: only a shell is needed, and what it has built in."""
    host = shlex.quote(expected.hostname)
    yield GuestCheck(
        _SYSTEM,
        "host name, which /etc/hosts resolves",
        f"read name < /proc/sys/kernel/hostname; echo $name; test $name = {host} || exit 1; "
        'while read address names; do case " $names " in *" $name "*) exit 0;; esac; done < /etc/hosts; '
        "exit 1",
    )
    device = "overlay,overlay" if overlay else "/dev/vda,ext4"
    yield GuestCheck(
        _SYSTEM,
        _OVERLAY if overlay else "/ is /dev/vda, mounted read-write",
        "while read device place type options rest; do if [ $place = / ]; then echo $device $type $options; "
        f"case $device,$type,$options, in {device},rw,*) exit 0;; esac; fi; done < /proc/mounts; exit 1",
    )
    yield GuestCheck(
        _SYSTEM,
        "/ has grown to the disk's size",
        "command -v stat > /dev/null || { echo 'not checked: the image has no stat'; exit 0; }; "
        f'size=$(($(stat -f -c "%b * %S" /))); echo "$size of {disk_size} bytes"; '
        f"test $size -ge {disk_size * 19 // 20}",
    )
    yield GuestCheck(
        _SYSTEM,
        "commands have the image's PATH",
        f'echo "$PATH"; test "$PATH" = {shlex.quote(":".join(expected.path))}',
    )
    for place in ("/dev/pts", "/dev/shm", "/proc", "/run", "/sys", "/sys/fs/cgroup"):  # noqa: S108
        yield GuestCheck(
            _SYSTEM,
            f"{place} is mounted",
            f"while read device place type rest; do if [ $place = {place} ]; then echo $type; exit 0; fi; "
            "done < /proc/mounts; exit 1",
        )
    yield GuestCheck(
        _SYSTEM,
        "the loopback is up",
        "read flags < /sys/class/net/lo/flags; echo $flags; test $((flags & 1)) = 1",
    )


def _password_check(password: str | None) -> GuestCheck:
    """Return a check of root's password by the guest's own crypt(3)."""
    field = "my ($hash) = map { (split /:/)[1] } grep { /^root:/ } <>;"
    if password is None:
        test = f"{field} exit($hash !~ /^[!*]/)"
    elif password == UNKNOWN_PASSWORD:
        test = f"{field} exit($hash !~ /^\\$6\\$/)"
    else:
        test = f"{field} exit(crypt($ENV{{P}}, $hash) ne $hash)"
    what = "root is locked" if password is None else "root's password is the spec's"
    environment = shlex.quote(f"P={password or ''}")
    return GuestCheck(_SYSTEM, what, f"env {environment} perl -e {shlex.quote(test)} /etc/shadow")


def _runtime_checks(expected: Expectation) -> Iterator[GuestCheck]:
    yield GuestCheck(_RUNTIMES, "Bash 5.2", _BASH)
    if {"python3-venv", "python3-dev", "build-essential"} <= expected.packages:
        program = _PYTHON_EXTENSION + "python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'"
        yield GuestCheck(_RUNTIMES, "Python 3.11: a venv with a C extension, pip", program)
    if expected.node is not None:
        program = f"{_NODE_SERVER}node --version | grep -q '^v{re.escape(expected.node)}[.]'"
        yield GuestCheck(_RUNTIMES, f"Node.js {expected.node}: an http server and client", program)
    if expected.rust:
        yield GuestCheck(_RUNTIMES, "Rust: cargo new, build, run, clippy, fmt", _RUST_PROJECT)
    if {"build-essential", "cmake"} <= expected.packages:
        yield GuestCheck(_RUNTIMES, "C and C++ by gcc and clang, with cmake", _C_PROJECT)


def _tool_checks(expected: Expectation) -> Iterator[GuestCheck]:
    """Return a check for each package of tools: every program of it answers."""
    packages = {"clang" if re.fullmatch(r"clang-\d+", name) else name for name in expected.packages}
    for package, programs in PROGRAMS.items():
        if package in packages:
            calls = [_ANSWERS.get(program, f"{program} --version") for program in programs]
            answers = "; ".join(f"found=$({call} < /dev/null 2>&1)" for call in calls)
            present = "; ".join(f"command -v {program} > /dev/null" for program in programs)
            program = f'set -e; {present}; {answers}; echo "${{found:-present}}" | head -n 1'
            yield GuestCheck(_TOOLS, package, program)
