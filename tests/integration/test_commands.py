"""Commands over layers, run for real: what they see, what becomes of what they change, and what stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bouvet import pipeline
from bouvet.errors import CacheError, CommandFailed, LayerCorrupt, LayerError
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.layers import commands
from bouvet.layers.layer import Layer
from bouvet.layers.merge import OPAQUE, is_whiteout, merge
from bouvet.layers.store import Store
from bouvet.layers.unpacked import UnpackedLayers
from tests.conftest import mounts_below
from tests.integration.layered import (
    CAPABILITY,
    LISTING,
    MADE,
    commit,
    described,
    digests,
    inode_of,
    listed,
    run_script,
    tiny_system,
)
from tests.integration.ordinary_user import as_nobody

pytestmark = [pytest.mark.needs_tool("unshare", "busybox"), pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(empty_cache: Path) -> Iterator[Store]:
    with Store(empty_cache) as opened:
        yield opened


@pytest.fixture
def tiny(store: Store) -> Layer:
    return commit(store, "tiny", tiny_system())


def seen(store: Store, layers: list[Layer], script: str, **settings: Any) -> list[str]:
    """Return the lines that a script prints."""
    lines: list[str] = []
    name = f"seen {len(list(store.root.glob('layers/*')))}"
    run_script(store, layers, script, name=name, output=lines.append, **settings)
    return lines


# --- What becomes of changes --------------------------------------------------------------------------


def test_changes_become_a_layer(store: Store, tiny: Layer) -> None:
    layer = run_script(
        store,
        [tiny],
        """
        echo new > /data/new; chown 12:34 /data/new; chmod 4711 /data/new
        ln /data/new /data/also; ln -s new /data/pointer; mkfifo /data/pipe
        mkdir -m 1777 /data/made
        echo more >> /data/plain
        rm /data/full/a
        echo tmp > /tmp/x; echo run > /run/x; mkdir /var/log; echo log > /var/log/x
        """,
    )
    assert set(layer.tree) == {
        *(b"data/new", b"data/also", b"data/pointer", b"data/pipe", b"data/made", b"data/plain"),
        *(b"data/full/a", b"var/log"),
    }
    new = inode_of(layer, "data/new")
    assert new is inode_of(layer, "data/also")
    assert (new.mode, new.uid, new.gid, new.content()) == (stat.S_IFREG | 0o4711, 12, 34, b"new\n")
    assert inode_of(layer, "data/pointer").target == b"new"
    assert stat.S_ISFIFO(inode_of(layer, "data/pipe").mode)
    assert inode_of(layer, "data/made").mode == stat.S_IFDIR | 0o1777
    assert inode_of(layer, "data/plain").content() == b"plain\nmore\n"
    assert is_whiteout(inode_of(layer, "data/full/a"))
    times = {inode.mtime for inode in layer.tree.values() if not is_whiteout(inode)}
    assert times == {MADE}


def test_a_directory_that_takes_anothers_place_hides_it(store: Store, tiny: Layer) -> None:
    layer = run_script(store, [tiny], "rm -r /data/full; mkdir /data/full; echo c > /data/full/c; mkdir /new")
    assert inode_of(layer, "data/full").xattrs == {OPAQUE: b"y"}
    assert inode_of(layer, "new").xattrs == {}
    merged = merge([tiny.tree, layer.tree])
    assert [path for path in merged if path.startswith(b"data/full/")] == [b"data/full/c"]


def test_what_did_not_change_is_left_out(store: Store, tiny: Layer) -> None:
    script = """
    touch /data/plain; cp /data/full/a /tmp/a; cat /tmp/a > /data/full/a; chmod 755 /data; : > /x; rm /x
    echo x > /data/y; rm /data/y; mkdir /data/d; rmdir /data/d
    """
    assert run_script(store, [tiny], script).tree == {}


def test_metadata_of_the_layers_below_survives_a_change(store: Store, tiny: Layer) -> None:
    layer = run_script(
        store, [tiny], "chmod 700 /data/able; echo more >> /data/owned; chmod 4751 /data/owned"
    )
    able, owned = inode_of(layer, "data/able"), inode_of(layer, "data/owned")
    assert (able.mode & 0o7777, able.xattrs) == (0o700, {b"security.capability": CAPABILITY})
    assert (owned.mode & 0o7777, owned.uid, owned.gid) == (0o4751, 12, 34)
    assert owned.xattrs == {b"user.note": b"\0\xffkept"}


def test_a_name_of_a_linked_file_changes_alone(store: Store, tiny: Layer) -> None:
    layer = run_script(store, [tiny], "echo more >> /data/one")
    assert set(layer.tree) == {b"data/one"}
    merged = merge([tiny.tree, layer.tree])
    assert merged[b"data/two"].content() == b"linked\n"


def test_the_merged_layers_are_what_the_next_command_sees(store: Store, tiny: Layer) -> None:
    scripts = [
        "rm -r /data/full; mkdir /data/full; echo 1 > /data/full/1; mv /data/plain /data/moved",
        "rm /data/one /data/two; mv /data/full /data/other; ln /data/moved /data/linked; ln -s / /data/root",
        "chown -R 1000:50 /home; chmod -R 700 /data/other; touch /data",
        "rm /data/root; mkdir /data/root; echo deep > /data/root/deep; echo again > /data/plain; : > /data/e",
        "rm -r /data/root; echo file > /data/root; mkdir -p /data/full/x/y; rm /data/owned",
    ]
    layers = [tiny]
    for number, script in enumerate(scripts):
        layers.append(run_script(store, layers, script, name=f"step {number}"))
    merged = merge([layer.tree for layer in layers])
    expected = described(merged)
    found = listed(seen(store, layers, LISTING))
    # Mount points, and the file that keeps services from starting.
    for path in ("/dev", "/proc", "/run", "/sys", "/tmp"):
        expected.pop(path)
    for path in ("/etc/resolv.conf", "/usr", "/usr/sbin", "/usr/sbin/policy-rc.d"):
        found.pop(path)
    assert {path: found[path] for path in found if path not in {"/dev", "/proc", "/run", "/sys", "/tmp"}} == (
        expected
    )


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    script = "echo x > /data/x; mkdir /data/z; date > /tmp/now; rm /data/one; sleep 0.1; : > /data/z/later"
    found = []
    for number in range(2):
        with Store(tmp_path / str(number)) as store:
            layer = run_script(store, [commit(store, "tiny", tiny_system())], script.replace("date", "id"))
            found.append(digests(store, layer))
    assert found[0] == found[1]


def test_directories_that_a_layer_does_not_describe_keep_their_attributes(store: Store, tiny: Layer) -> None:
    upper = commit(store, "upper", {b"home/ann/mail/new": regular_file(b"x", mtime=MADE)})
    layers = [tiny, upper]
    assert seen(store, layers, "stat -c '%a %u:%g' /home/ann /home/ann/mail") == ["700 1000:1000", "755 0:0"]
    layer = run_script(store, layers, "echo y > /home/ann/y")
    assert set(layer.tree) == {b"home/ann/y"}


# --- What a command sees and may do -------------------------------------------------------------------


def test_the_environment_is_made_anew(store: Store, tiny: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the user")
    lines = seen(store, [tiny], "env; umask; hostname; cat", environment={"COLOUR": "blue"})
    assert lines[-2:] == ["0022", "localhost"]  # and nothing from standard input
    found = dict(line.split("=", 1) for line in lines[:-2])
    assert "SECRET" not in found
    assert found["COLOUR"] == "blue"
    assert (found["HOME"], found["SOURCE_DATE_EPOCH"], found["TZ"]) == ("/root", str(MADE // 10**9), "UTC")


def test_a_user_of_the_tree_runs_it(store: Store, tiny: Layer) -> None:
    lines = seen(store, [tiny], "id; pwd; echo $HOME; : > mine", user="ann", directory="/home/ann")
    assert lines == ["uid=1000(ann) gid=1000(ann) groups=50(staff)", "/home/ann", "/home/ann"]
    layer = run_script(store, [tiny], ": > mine", user="ann", directory="/home/ann")
    assert (inode_of(layer, "home/ann/mine").uid, inode_of(layer, "home/ann/mine").gid) == (1000, 1000)
    with pytest.raises(LayerError, match="no user 'bob'"):
        run_script(store, [tiny], "true", user="bob", name="bob")


def test_it_reaches_nothing_of_the_host(store: Store, tiny: Layer, tmp_path: Path) -> None:
    (tmp_path / "host").write_text("host")
    lines = seen(
        store,
        [tiny],
        f"""
        test ! -e {tmp_path}/host
        ! mount -t tmpfs none /data 2>/dev/null
        ! umount /proc 2>/dev/null
        ! echo 1 2>/dev/null > /proc/sys/kernel/panic
        ! mknod /data/disk b 254 0 2>/dev/null || ! cat /data/disk 2>/dev/null
        ! touch /sys/x 2>/dev/null
        ! kill -0 2 2>/dev/null || ps -o pid
        ls /dev
        """,
    )
    assert set(lines) >= {"null", "pts", "shm", "urandom"}
    assert not {"kmsg", "mem", "vda", "sda"} & set(lines)


def test_the_network_is_off_unless_it_is_wanted(store: Store, tiny: Layer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1 {server.getsockname()[1]}"
        ask = f"nc -w 5 {address} < /dev/null 2> /dev/null && echo reached || echo refused"
        assert seen(store, [tiny], ask) == ["refused"]
        assert seen(store, [tiny], "ls /sys/class/net; cat /etc/resolv.conf") == ["lo"]

        def answer() -> None:
            server.accept()[0].close()

        answering = threading.Thread(target=answer)
        answering.start()
        assert seen(store, [tiny], ask, network=True) == ["reached"]
        answering.join()
    resolvers = Path("/etc/resolv.conf").read_text().splitlines()
    assert seen(store, [tiny], "cat /etc/resolv.conf", network=True) == resolvers
    assert run_script(store, [tiny], "true", network=True).tree == {}


@pytest.mark.parametrize("target", ["../run/systemd/resolve/stub-resolv.conf", "/nowhere/at/all"])
def test_a_resolver_configuration_that_is_a_link(store: Store, tiny: Layer, target: str) -> None:
    linked = commit(store, "linked", {b"etc/resolv.conf": symlink(target.encode(), mtime=MADE)})
    assert run_script(store, [tiny, linked], "cat /etc/resolv.conf || true", network=True).tree == {}


def test_caches_are_kept_and_are_no_part_of_the_layer(store: Store, tiny: Layer) -> None:
    caches = {"/var/cache/things": store.cache("things")}
    layer = run_script(store, [tiny], "echo kept > /var/cache/things/x", caches=caches)
    assert layer.tree == {}
    assert seen(store, [tiny], "cat /var/cache/things/x", caches=caches) == ["kept"]
    assert (store.cache("things") / "x").read_text() == "kept\n"


def test_no_service_is_started(store: Store, tiny: Layer) -> None:
    assert seen(store, [tiny], "/usr/sbin/policy-rc.d ssh start || echo $?") == ["101"]
    layer = run_script(store, [tiny], "rm /usr/sbin/policy-rc.d")
    assert not any(is_whiteout(inode) for inode in layer.tree.values())


def test_many_layers(store: Store, tiny: Layer) -> None:
    layers = [tiny]
    for number in range(70):
        tree: FileTree = {f"data/number-{number}".encode(): regular_file(b"", mtime=MADE)}
        layers.append(commit(store, f"layer {number}", tree))
    assert seen(store, layers, "ls /data | grep -c number") == ["70"]


def test_what_is_left_running_ends_with_the_command(store: Store, tiny: Layer) -> None:
    started = time.monotonic()
    assert seen(store, [tiny], "sleep 1002 & echo started") == ["started"]
    assert time.monotonic() - started < 60
    assert not running("sleep 1002")


@pytest.mark.parametrize(
    "hostile",
    [
        {b"proc": symlink(b"/data")},
        {b"dev": symlink(b"/etc")},
        {b"tmp": regular_file(b"")},
        {b"run": symlink(b"../../../../../../run")},
    ],
)
def test_mount_points_that_are_none(store: Store, tiny: Layer, hostile: FileTree) -> None:
    upper = commit(store, "upper", hostile)
    with pytest.raises(LayerError, match=r"could not be started: .* is no directory"):
        run_script(store, [tiny, upper], "true")


def test_attributes_of_overlayfs_in_a_layer_mean_nothing(store: Store, tiny: Layer) -> None:
    marked = directory(mtime=MADE)
    marked.xattrs = {b"user.overlay.opaque": b"y", b"trusted.overlay.redirect": b"/etc"}
    upper = commit(store, "upper", {b"data/full": marked})
    assert seen(store, [tiny, upper], "ls /data/full") == ["a", "b"]


# --- When it goes wrong -------------------------------------------------------------------------------


def test_a_failure_shows_the_output_and_leaves_nothing(store: Store, tiny: Layer) -> None:
    with pytest.raises(CommandFailed, match="ended with status 3") as caught:
        run_script(store, [tiny], "echo first; echo second >&2; exit 3")
    assert caught.value.details[-2:] == ("first", "second")
    with pytest.raises(CommandFailed, match="SIGKILL"):
        run_script(store, [tiny], "kill -9 $$")
    with pytest.raises(CommandFailed, match=r"longer than 0\.5 s"):
        run_script(store, [tiny], "sleep 1003", timeout=0.5)
    with pytest.raises(LayerError, match="could not be started: No such file"):
        run_script(store, [tiny], "true", directory="/nowhere")
    assert [path.name for path in (store.root / "layers").iterdir()] == [tiny.digest]
    assert not list(store.root.glob("work/*/*/command"))
    assert not running("sleep 1003")


def test_a_failed_command_can_be_entered(store: Store, tiny: Layer) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_script(store, [tiny], "echo left > /data/left; rm /data/one; exit 1", keep=True, name="broken")
    place = store.root / "failed" / "broken"
    assert caught.value.hint == f"look around with: bouvet enter {place}"
    for _ in range(2):
        argv = commands.entering(place, ["/bin/sh", "-c", "cat /data/left /data/one; echo $HOME"])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "left\n/root\n", done.stderr
    assert pipeline.enter(place, ["/bin/sh", "-c", "test -e /data/left && exit 7"]) == 7
    with pytest.raises(LayerError, match="cannot be entered: No such file"):
        pipeline.enter(place, ["/no/such/program"])
    store.prune(0)
    assert not place.exists()
    with pytest.raises(LayerError, match="not the directory of a failed command"):
        commands.entering(place, [])


def test_what_is_entered_is_not_removed(empty_cache: Path) -> None:
    def fail() -> str:
        with Store(empty_cache) as store:
            tiny = commit(store, "tiny", tiny_system())
            with pytest.raises(CommandFailed):
                run_script(store, [tiny], "echo left > /data/left; exit 1", keep=True, name="broken")
            return tiny.digest

    digest = fail()
    assert fail() == digest
    place = empty_cache / "failed" / "broken"
    assert list(place.parent.iterdir()) == [place], "the second took the first's place"
    script = "echo in; read _; cat /data/left /data/one"
    argv: list[str | Path] = [
        Path(sys.executable).with_name("bouvet"),
        "enter",
        place,
        "--",
        "/bin/sh",
        "-c",
        script,
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        with pytest.raises(CacheError, match="another process is in"):
            pipeline.enter(place, ["/bin/true"])
        with Store(empty_cache) as other:
            assert other.prune(0) == []
            assert other.has(digest)
        fail()
        assert {path.name for path in place.parent.iterdir()} == {"broken", "broken.2"}
        child.stdin.write(b"go\n")
        child.stdin.close()
        assert child.stdout.read() == b"left\nlinked\n"
    assert child.returncode == 0
    with Store(empty_cache) as other:
        assert [entry.digest for entry in other.prune(0)] == [digest]
    assert not list(place.parent.iterdir())


def command_line(cache: Path, script: str) -> list[str]:
    return [sys.executable, "-m", "tests.integration.layered", str(cache), script]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_build_leaves_no_process_and_no_mount(empty_cache: Path, number: signal.Signals) -> None:
    script = "echo started; : > /data/x; sleep 1001"
    with subprocess.Popen(
        command_line(empty_cache, script), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        child.send_signal(number)
        child.wait(timeout=30)
    wait_until(lambda: not running("sleep 1001"))
    assert not mounts_below(str(empty_cache))
    with Store(empty_cache) as store:
        assert len(list((empty_cache / "work").iterdir())) == 2  # this store's own, and its lock
        layer = run_script(store, [commit(store, "tiny", tiny_system())], script.replace("sleep", ": "))
        assert set(layer.tree) == {b"data/x"}


# --- Layers laid out as directories -------------------------------------------------------------------


def test_a_layer_that_was_tampered_with_is_laid_out_anew(store: Store, tiny: Layer) -> None:
    (directory_,) = UnpackedLayers(store).directories([tiny], lambda: None)
    before = (directory_ / "data/plain").stat().st_ino
    assert UnpackedLayers(store).directories([tiny], lambda: None) == [directory_]
    assert (directory_ / "data/plain").stat().st_ino == before
    (directory_ / "data/plain").write_text("other\n")
    assert seen(store, [tiny], "cat /data/plain") == ["plain"]
    (store.root / "unpacked" / tiny.digest / "seal.json").write_text("{")
    assert seen(store, [tiny], "cat /data/plain") == ["plain"]


def test_a_corrupt_layer_is_found_when_it_is_laid_out(store: Store, tiny: Layer) -> None:
    blob = store.layer_directory(tiny.digest) / "blob"
    with blob.open("r+b") as file:
        file.seek(blob.stat().st_size // 2)
        file.write(b"damage")
    with pytest.raises(LayerCorrupt) as caught:
        UnpackedLayers(store).directories([tiny], lambda: None)
    assert caught.value.digest == tiny.digest
    assert not (store.root / "unpacked" / tiny.digest).exists()


def test_two_builds_lay_a_layer_out_once(empty_cache: Path) -> None:
    with Store(empty_cache) as one, Store(empty_cache) as other:
        tiny = commit(one, "tiny", tiny_system())
        places: list[Path] = []
        waited: list[bool] = []

        def lay_out(store: Store) -> None:
            held = store.get(tiny.digest)
            assert held is not None
            places.extend(UnpackedLayers(store).directories([held], lambda: waited.append(True)))

        threads = [threading.Thread(target=lay_out, args=(store,)) for store in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(places) == 2
        assert len(set(places)) == 1
        assert len(list((empty_cache / "unpacked").iterdir())) == 1


def test_a_pruned_layer_is_removed_as_directory_too(empty_cache: Path) -> None:
    with Store(empty_cache) as store:
        UnpackedLayers(store).directories([commit(store, "tiny", tiny_system())], lambda: None)
    with Store(empty_cache) as store:
        assert [entry.name for entry in store.prune(0)] == ["tiny"]
        assert not list((empty_cache / "unpacked").iterdir())


# --- As an ordinary user ------------------------------------------------------------------------------


@pytest.mark.needs_root
def test_all_this_as_an_ordinary_user(nobodys_directory: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = as_nobody(nobodys_directory, argv, subordinate="nobody:100000:65536\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[3-9]\d passed, 3 skipped", done.stdout), done.stdout


@pytest.mark.needs_root
def test_an_ordinary_user_gets_the_same_bytes(store: Store, tiny: Layer, nobodys_directory: Path) -> None:
    script = (
        "echo x > /data/x; chown 12:34 /data/x; rm /data/one; chmod 700 /data/able; mkdir -p /data/full/z"
    )
    layer = run_script(store, [tiny], script)
    argv = command_line(nobodys_directory / "cache", script)
    done = as_nobody(nobodys_directory, argv, subordinate="nobody:100000:65536\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests(store, layer)


@pytest.mark.needs_root
def test_an_ordinary_user_without_subordinate_ids_is_told(nobodys_directory: Path) -> None:
    argv = command_line(nobodys_directory / "cache", "true")
    done = as_nobody(nobodys_directory, argv, subordinate="")
    assert "LayerError: this host does not let an ordinary user make trees with other owners" in done.stderr


def running(arguments: str) -> bool:
    """Return whether a process with these arguments runs."""
    wanted = arguments.replace(" ", "\0").encode() + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().endswith(wanted):
                return True
    return False


def wait_until(condition: object) -> None:
    """Wait for something that the kernel does by itself."""
    deadline = time.monotonic() + 10
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
