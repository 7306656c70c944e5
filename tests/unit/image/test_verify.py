"""Static verification: good images pass, judged by what they must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bouvet.formats.tree import FileTree, directory, regular_file
from bouvet.image.expectation import DEVBOX
from bouvet.image.guest import one_line
from bouvet.image.requirements.tools import PROGRAMS
from bouvet.image.verify import check_image
from bouvet.spec import load
from tests.unit.image.devbox_tree import (
    PACKAGES,
    as_file,
    devbox_tree,
    elf,
    manifest,
    shadow,
    write_image,
)
from tests.unit.image.tampering import drop, edit, put

MANIFEST_ROW = "tells what the image was made from"
MANIFEST = "usr/share/bouvet/manifest.json"
PASSWORD_ROW = "root's password"
AGENT = "usr/local/bin/bouvet-agent"
AGENT_ROW = "/usr/local/bin/bouvet-agent, mode 0755, owned by root"
RUST_ENVIRONMENT = "RUSTUP_HOME and CARGO_HOME, and Rust on PATH"
SYSTEM_CONF = "etc/systemd/system.conf.d/bouvet.conf"


def failed(image: Path) -> list[str]:
    return [row.requirement for row in check_image(image).failed]


def test_a_good_image_passes(tmp_path: Path) -> None:
    report = check_image(write_image(tmp_path / "image", devbox_tree()))
    assert [row for row in report.rows if not row.passed] == []
    assert report.passed
    assert len({(row.area, row.requirement) for row in report.rows}) == len(report.rows)
    assert all(row.found for row in report.rows)


def test_the_devbox_asks_for_every_tool() -> None:
    packages = set(load("devbox").debian.packages)
    packages = {"clang" if name.startswith("clang-") else name for name in packages}
    assert {*PROGRAMS, "ca-certificates"} - packages == set()


def test_a_shell_of_another_machine_fails(tmp_path: Path) -> None:
    tree = devbox_tree()
    tree[b"usr/bin/bash"] = regular_file(elf(183), 0o755)
    rows = ["the architecture", "every program and library is for the architecture", "Bash 5.2 at /bin/bash"]
    assert failed(write_image(tmp_path / "image", tree)) == rows


@pytest.mark.parametrize(
    ("path", "row"),
    [
        (AGENT, "a static executable for the image's architecture"),
        ("usr/bin/node", "Node.js 20.x at /usr/bin/node"),
        ("usr/bin/git", "git"),
    ],
)
def test_a_program_of_another_machine_fails(path: str, row: str, tmp_path: Path) -> None:
    tree = devbox_tree()
    put(path, elf(183), 0o755)(tree)
    rows = {"every program and library is for the architecture", row}
    assert set(failed(write_image(tmp_path / "image", tree))) == rows


def test_objects_and_the_libraries_of_cross_compilers_may_be_for_other_machines(tmp_path: Path) -> None:
    tree = devbox_tree()
    put("usr/lib/debug/module.o", elf(247, kind=1))(tree)
    put("usr/aarch64-linux-gnu/lib/libc.so.6", elf(183, kind=3), 0o755)(tree)
    assert failed(write_image(tmp_path / "image", tree)) == []


def test_an_image_of_the_other_architecture_passes(tmp_path: Path) -> None:
    tree = devbox_tree(183)
    tree[b"usr/share/bouvet/manifest.json"] = regular_file(as_file({**manifest(), "architecture": "aarch64"}))
    assert failed(write_image(tmp_path / "image", tree)) == []


def test_a_locked_account_is_as_good_as_the_spec_says(tmp_path: Path) -> None:
    tree = devbox_tree()
    locked = {**manifest()["spec"]["system"], "root_password": None}
    put(MANIFEST, as_file(manifest(system=locked)))(tree)
    assert failed(write_image(tmp_path / "open", tree)) == [PASSWORD_ROW]
    put("etc/shadow", shadow(hashed="*"))(tree)
    assert failed(write_image(tmp_path / "locked", tree)) == []


def test_a_password_that_is_not_told_is_only_checked_to_be_set(tmp_path: Path) -> None:
    tree = devbox_tree()
    secret = {**manifest()["spec"]["system"], "root_password": "(set)"}
    put(MANIFEST, as_file(manifest(system=secret)))(tree)
    put("etc/shadow", shadow("secret"))(tree)
    image = write_image(tmp_path / "image", tree)
    assert failed(image) == []
    assert "secret" not in str(check_image(image))


def test_a_small_image_is_not_asked_for_what_it_shall_not_have(tmp_path: Path) -> None:
    tree = devbox_tree()
    for path in [path for path in tree if b"cargo" in path or b"node" in path or path == AGENT.encode()]:
        del tree[path]
    plain = {**manifest()["spec"]["system"], "environment": {}, "path": ["/usr/bin", "/bin"]}
    debian = {"packages": ["iproute2"]}
    put(MANIFEST, as_file(manifest(node=None, rust=None, agent=False, debian=debian, system=plain)))(tree)
    put("etc/profile.d/bouvet.sh", "export PATH=/usr/bin:/bin\n")(tree)
    put(SYSTEM_CONF, 'DefaultEnvironment="PATH=/usr/bin:/bin"\n')(tree)
    image = write_image(tmp_path / "image", tree)
    report = check_image(image)
    assert report.failed == ()
    tools = [row.requirement for row in report.rows if row.area == "Tools"]
    assert tools == ["iproute2"]
    # What its own manifest leaves out is missed by who expects it.
    full = check_image(image, expected=DEVBOX)
    assert {"npm", AGENT_ROW, RUST_ENVIRONMENT, MANIFEST_ROW} <= {row.requirement for row in full.failed}


TOOLCHAIN = "usr/local/rustup/toolchains/stable-x86_64-unknown-linux-gnu/"
RUSTUP_ROW = "a toolchain as rustup lays it out"


def rustup_tree() -> FileTree:
    """Return a tree whose Rust is a toolchain of rustup's, with its licence."""
    tree = devbox_tree()
    asked_for = {"packages": [name for name in PACKAGES if "-web" not in name]}
    put(MANIFEST, as_file(manifest(rust={"source": "rustup"}, debian=asked_for)))(tree)
    put("usr/local/rustup/settings.toml", 'default_toolchain = "stable-x86_64-unknown-linux-gnu"\n')(tree)
    put(TOOLCHAIN + "lib/rustlib/components", "cargo\nrustc\n")(tree)
    for name in ("cargo", "rustc"):
        put(TOOLCHAIN + f"lib/rustlib/manifest-{name}", f"file:bin/{name}\n")(tree)
    put(TOOLCHAIN + "bin/rustc", elf())(tree)
    tree[TOOLCHAIN.encode() + b"bin/rustc"].mode |= 0o111
    put(TOOLCHAIN + "share/doc/rust/licenses/MIT.txt", "licence")(tree)
    return tree


def test_a_toolchain_of_rustups_is_checked_as_such(tmp_path: Path) -> None:
    report = check_image(write_image(tmp_path / "image", rustup_tree()))
    assert report.failed == ()
    [found] = [row.found for row in report.rows if row.requirement == RUSTUP_ROW]
    assert found == "stable-x86_64-unknown-linux-gnu: cargo, rustc"
    assert not [row for row in report.rows if row.requirement == "a stable Rust, all of one version"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("usr/local/rustup/settings.toml", 'profile = "minimal"\n'),
        ("usr/local/rustup/settings.toml", 'default_toolchain = "../../x"\n'),
        (TOOLCHAIN + "lib/rustlib/components", "cargo\nrustc\nclippy\n"),
        (TOOLCHAIN + "lib/rustlib/components", ""),
        (TOOLCHAIN + "bin/rustc", "no program"),
    ],
)
def test_a_toolchain_that_rustup_would_not_take_fails_its_row(
    tmp_path: Path, path: str, content: str
) -> None:
    tree = rustup_tree()
    put(path, content)(tree)
    assert failed(write_image(tmp_path / "image", tree)) == [RUSTUP_ROW]


def test_what_the_caller_expects_is_checked_not_what_the_image_says(tmp_path: Path) -> None:
    tree = devbox_tree()
    put(MANIFEST, as_file(manifest(rust=None)))(tree)
    drop("usr/bin/rustc")(tree)
    image = write_image(tmp_path / "image", tree)
    assert failed(image) == []
    rows = {row.requirement: row for row in check_image(image, expected=DEVBOX).failed}
    assert set(rows) == {MANIFEST_ROW, "/usr/local/cargo/bin/rustc"}
    assert "rust" in rows[MANIFEST_ROW].found


def test_variables_that_the_spec_asks_for_are_no_leftovers(tmp_path: Path) -> None:
    tree = devbox_tree()
    system = manifest()["spec"]["system"]
    system["environment"]["http_proxy"] = "http://10.0.0.1"
    put(MANIFEST, as_file(manifest(system=system)))(tree)
    edit("etc/profile.d/bouvet.sh", "export CARGO", "export http_proxy=http://10.0.0.1\nexport CARGO")(tree)
    edit(SYSTEM_CONF, '"CARGO', '"http_proxy=http://10.0.0.1" "CARGO')(tree)
    assert failed(write_image(tmp_path / "image", tree)) == []


def test_what_is_found_is_shown_on_one_printable_line() -> None:
    assert one_line(" a\n\n b\x1b[31m\udc80 ") == "a |  | b?[31m?"
    assert len(one_line("x" * 10_000)) == 200


def test_directories_in_place_of_files_fail(tmp_path: Path) -> None:
    tree = devbox_tree()
    for path in ("etc/fstab", "etc/shadow", "var/lib/dpkg/status", "usr/bin/bash"):
        tree[path.encode()] = directory()
    rows = failed(write_image(tmp_path / "image", tree))
    assert {"/etc/fstab", PASSWORD_ROW, "the architecture", "Python 3.11 at /usr/bin/python3"} <= set(rows)


def test_a_mirror_that_the_spec_asks_for_may_be_anywhere(tmp_path: Path) -> None:
    tree = devbox_tree()
    edit("etc/apt/sources.list", "mirror.example.org", "10.0.0.1")(tree)
    debian = {**manifest()["spec"]["debian"], "mirror": "http://10.0.0.1/debian"}
    put(MANIFEST, as_file(manifest(debian=debian)))(tree)
    assert failed(write_image(tmp_path / "image", tree)) == []
