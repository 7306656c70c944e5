"""dpkg's path-exclude and path-include, beside mmdebstrap's filter for them."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest

from bouvet.layers.path_filter import PathFilter

EXCLUDE = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/bin/*lto-dump*", "/opt/[ab]?")
INCLUDE = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
NAMES = (
    "./", "./usr/", "./usr/share/", "./usr/share/doc/", "./usr/share/doc/p/", "./usr/share/doc/p/copyright",
    "./usr/share/doc/p/changelog.gz", "./usr/share/doc/p/deep/", "./usr/share/doc/p/deep/copyright",
    "./usr/share/locale/", "./usr/share/locale/de/", "./usr/share/locale/de/x.mo",
    "./usr/share/locale/locale.alias", "./usr/bin/x86_64-linux-gnu-lto-dump-12", "./usr/bin/ls",
    "./opt/ab", "./opt/abc", "./opt/c1", "./usr/share/doc.d",
)  # fmt: skip


def members() -> list[tarfile.TarInfo]:
    found = []
    for name in NAMES:
        info = tarfile.TarInfo(name.rstrip("/") or ".")
        info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
        found.append(info)
    link = tarfile.TarInfo("./usr/share/doc/linked")
    link.type, link.linkname = tarfile.SYMTYPE, "p"
    return [*found, link]


def test_what_is_kept() -> None:
    keeps = PathFilter(EXCLUDE, INCLUDE)
    assert [member.name for member in members() if not keeps(member)] == [
        "./usr/share/doc/p/changelog.gz",
        "./usr/share/locale/de",
        "./usr/share/locale/de/x.mo",
        "./usr/bin/x86_64-linux-gnu-lto-dump-12",
        "./opt/ab",
    ]


def test_without_patterns_everything_is_kept() -> None:
    keeps = PathFilter((), ())
    assert all(keeps(member) for member in members())


@pytest.mark.needs_tool("mmdebstrap")
def test_mmdebstraps_filter_keeps_the_same_files() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members():
            tar.addfile(member)
    options = [f"--path-exclude={each}" for each in EXCLUDE] + [f"--path-include={each}" for each in INCLUDE]
    done = subprocess.run(
        ["mmtarfilter", *options], input=stream.getvalue(), capture_output=True, timeout=60, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        theirs = [member.name for member in tar if member.isfile()]
    keeps = PathFilter(EXCLUDE, INCLUDE)
    # It takes directories less exactly than dpkg: of those, only what is on the way to a file stays.
    assert [member.name for member in members() if member.isfile() and keeps(member)] == theirs
