"""Archives, read back by Python's tarfile and json; the tools' own view is in tests/integration."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from bouvet.errors import FormatError, ImageError, SpecError
from bouvet.formats.tree import FileTree, Inode, directory, regular_file, symlink
from bouvet.image.oci import write_archive
from tests.formats.ext4 import trees
from tests.unit.image.archives import CREATED, SECOND, Archive, configuration, layers_of, write

WHITEOUT = Inode(stat.S_IFCHR, device=(0, 0))


def base() -> FileTree:
    return {
        b"": directory(0o755),
        b"etc": directory(0o750, uid=5),
        b"etc/passwd": regular_file(b"root:x:0:0::/root:/bin/sh\n"),
        b"bin": directory(),
        b"bin/large": regular_file(trees.noise(3_000_000)),
    }


def upper() -> FileTree:
    return {b"etc/hostname": regular_file(b"bouvet\n"), b"etc/passwd": WHITEOUT}


def test_the_archive_is_an_oci_layout(tmp_path: Path) -> None:
    digests = write(tmp_path / "a.tar", base(), upper())
    archive = Archive.read(tmp_path / "a.tar")
    assert archive.json("oci-layout") == {"imageLayoutVersion": "1.0.0"}
    (entry,) = archive.json("index.json")["manifests"]
    assert entry["digest"] == digests.manifest
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert entry["annotations"] == {
        "io.containerd.image.name": "localhost/bouvet-devbox:latest",
        "org.opencontainers.image.ref.name": "latest",
    }
    assert archive.manifest["mediaType"] == entry["mediaType"]
    assert archive.manifest["config"]["digest"] == digests.configuration
    assert [layer["digest"] for layer in archive.manifest["layers"]] == list(digests.layers)
    assert digests.size == (tmp_path / "a.tar").stat().st_size


def test_layers_digests_are_those_of_their_tar(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", base(), upper())
    archive = Archive.read(tmp_path / "a.tar")
    contents = [archive.blob(layer) for layer in archive.manifest["layers"]]
    diff_ids = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
    assert archive.configuration["rootfs"] == {"type": "layers", "diff_ids": diff_ids}
    lower, over = archive.layers
    assert lower[b"bin/large"].content == trees.noise(3_000_000)
    # What the upper layer only passes through keeps the lower one's owner and mode.
    assert list(over) == [b"etc/hostname", b"etc/.wh.passwd"]


def test_docker_finds_the_same_image(tmp_path: Path) -> None:
    digests = write(tmp_path / "a.tar", base(), upper(), name="team/box", tag="v1")
    archive = Archive.read(tmp_path / "a.tar")
    paths = ["blobs/" + digest.replace(":", "/") for digest in (digests.configuration, *digests.layers)]
    assert archive.json("manifest.json") == [
        {"Config": paths[0], "RepoTags": ["team/box:v1"], "Layers": paths[1:]}
    ]
    assert set(paths) < set(archive.files)


def test_the_configuration_says_how_to_start(tmp_path: Path) -> None:
    write(
        tmp_path / "a.tar",
        base(),
        architecture="aarch64",
        environment=(("PATH", "/bin"), ("GREETING", "grüß = dich")),
        command=("/bin/bash", "-l"),
        working_directory="/root",
        user="1000:1000",
        labels=(("org.opencontainers.image.version", "1"),),
    )
    document = Archive.read(tmp_path / "a.tar").configuration
    assert document["architecture"] == "arm64"
    assert document["created"] == "2023-11-14T22:13:20Z"
    assert document["config"] == {
        "User": "1000:1000",
        "Env": ["PATH=/bin", "GREETING=grüß = dich"],
        "Cmd": ["/bin/bash", "-l"],
        "WorkingDir": "/root",
        "Labels": {"org.opencontainers.image.version": "1"},
    }
    assert document["history"] == [
        {"created": "2023-11-14T22:13:20Z", "created_by": "step 0", "comment": "layer 0"}
    ]


def test_what_is_not_set_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", base())
    assert Archive.read(tmp_path / "a.tar").configuration["config"] == {}


def test_members_have_fixed_owners_modes_and_times(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", base())
    for member in Archive.read(tmp_path / "a.tar").members:
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert (member.mode, member.mtime) == (0o755 if member.isdir() else 0o644, CREATED)


def test_equal_arguments_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "a.tar", base(), upper())
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "C")
    previous = os.umask(0o077)
    try:
        second = write(tmp_path / "b.tar", dict(reversed(base().items())), upper())
    finally:
        os.umask(previous)
    assert first == second
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_layers_digest_does_not_depend_on_the_layers_over_it(tmp_path: Path) -> None:
    alone = write(tmp_path / "a.tar", base())
    below = write(tmp_path / "b.tar", base(), upper(), name="other")
    assert alone.layers == below.layers[:1]
    assert alone.manifest != below.manifest


def test_an_equal_layer_is_stored_once(tmp_path: Path) -> None:
    # The last one is larger than the buffer and has a hole where the cut ones' bytes were.
    sparse = Inode(stat.S_IFREG | 0o644, size=5 << 20)
    again = {b"again": regular_file(b"\xff" * (3 << 20))}
    digests = write(tmp_path / "a.tar", base(), again, again, {b"sparse": sparse})
    assert digests.layers[1] == digests.layers[2]
    archive = Archive.read(tmp_path / "a.tar")
    names = [member.name for member in archive.members]
    assert len(names) == len(set(names))
    assert archive.configuration["rootfs"]["diff_ids"] == list(digests.layers)
    assert archive.layers[3][b"sparse"].content == bytes(5 << 20)


def test_the_lowest_layer_has_every_directory(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {b"a/b/file": regular_file(b"x"), b"a/c": WHITEOUT})
    (layer,) = Archive.read(tmp_path / "a.tar").layers
    assert list(layer) == [b".", b"a", b"a/b", b"a/b/file"]
    assert {(layer[name].info.mode, layer[name].mtime) for name in (b".", b"a", b"a/b")} == {
        (0o755, CREATED * SECOND)
    }


def test_an_upper_layer_has_the_directories_that_are_new_or_were_removed(tmp_path: Path) -> None:
    lower = base() | {b"opt": directory(0o700), b"opt/old": directory(0o700)}
    opaque = Inode(stat.S_IFDIR | 0o700, xattrs={b"trusted.overlay.opaque": b"y"})
    write(
        tmp_path / "a.tar",
        lower,
        {b"etc/new/file": regular_file(b"x"), b"bin": WHITEOUT},
        {b"bin/tool": regular_file(b"y"), b"opt": opaque, b"opt/old/file": regular_file(b"z")},
    )
    _, second, third = Archive.read(tmp_path / "a.tar").layers
    assert list(second) == [b".wh.bin", b"etc/new", b"etc/new/file"]
    assert list(third) == [b"bin", b"bin/tool", b"opt", b"opt/.wh..wh..opq", b"opt/old", b"opt/old/file"]


def test_a_path_through_a_link_of_a_lower_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        write(tmp_path / "a.tar", {b"lib": symlink(b"usr/lib")}, {b"lib/file": regular_file(b"x")})


def test_large_holes_take_no_space(tmp_path: Path) -> None:
    sparse = Inode(stat.S_IFREG | 0o644, size=256 << 20)
    write(tmp_path / "a.tar", {b"sparse": sparse, b"z": regular_file(b"after")})
    status = (tmp_path / "a.tar").stat()
    assert status.st_size > 256 << 20
    assert status.st_blocks * 512 < 8 << 20


def test_progress_ascends_to_one(tmp_path: Path) -> None:
    seen: list[float] = []
    with (tmp_path / "a.tar").open("x+b") as file:
        write_archive(layers_of(base(), upper()), configuration(), file.fileno(), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert any(0 < fraction < 1 for fraction in seen)


def test_a_full_disk_is_an_image_error() -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(ImageError) as caught:
            write_archive(layers_of(base()), configuration(), descriptor)
    finally:
        os.close(descriptor)
    assert os.strerror(errno.ENOSPC) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("bouvet-devbox", "localhost/bouvet-devbox:latest"),
        ("team/box_1.2", "localhost/team/box_1.2:latest"),
        ("localhost/box", "localhost/box:latest"),
        ("host:5000/box", "host:5000/box:latest"),
        ("registry.example/team/box", "registry.example/team/box:latest"),
    ],
)
def test_names_are_completed(name: str, full: str) -> None:
    assert configuration(name=name).full_name == full


NO_NAMES = (
    "", "Box", "-box", "box-", "a//b", "/box", "box/", "a..b", "box:tag", "b x", "b\n", "é", "a" * 256,
)  # fmt: skip
NO_TAGS = ("", ".t", "-t", "a:b", "a/b", "t" * 129, "t\n", "é")


@pytest.mark.parametrize(
    "wrong", [{"name": name} for name in NO_NAMES] + [{"tag": tag} for tag in NO_TAGS], ids=repr
)
def test_what_is_no_name_or_tag_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        configuration(**wrong)
