"""Building kernels: with a source tree of one makefile, which says what it was asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bouvet.errors import CommandFailed, KernelError
from bouvet.events import Event, StepFinished, ToolOutput
from bouvet.vm.debian_kernel import DEBIAN_ARCHITECTURES, DebianKernel
from bouvet.vm.kernel_build import build_kernel
from tests.unit.vm.apt_archive import AptArchive

pytestmark = pytest.mark.needs_tool(
    "mmdebstrap", "apt-get", "dpkg-deb", "make", "gcc", "flex", "bison", "bc", "xz"
)

ARCHITECTURE = os.uname().machine

MAKEFILE = """\
olddefconfig:
\tcp .config resolved
vmlinux Image:
\t! grep -q BROKEN resolved
\techo "ARCH=$(ARCH)" | cat resolved - >vmlinux
\tmkdir -p arch/arm64/boot && cp vmlinux arch/arm64/boot/Image
kernelrelease:
\t@echo 6.1.999
"""


@pytest.fixture
def source(tmp_path: Path) -> DebianKernel:
    tree = tmp_path / "linux-source-6.1"
    tree.mkdir()
    (tree / "Makefile").write_text(MAKEFILE)
    root = tmp_path / "package"
    (root / "usr" / "src").mkdir(parents=True)
    archive = root / "usr" / "src" / "linux-source-6.1.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path, "linux-source-6.1"], check=True, timeout=60)
    apt = AptArchive(tmp_path / "archive", DEBIAN_ARCHITECTURES[ARCHITECTURE])
    apt.add("linux-source-6.1", root)
    apt.add("linux-source", tmp_path / "empty", depends="linux-source-6.1")
    return DebianKernel(ARCHITECTURE, sources=(apt.source(),))


def configuration(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_it_is_built_as_configured_and_leaves_nothing_else(source: DebianKernel, tmp_path: Path) -> None:
    events: list[Event] = []
    (tmp_path / "work").mkdir()
    release = build_kernel(
        source,
        [configuration(tmp_path / "a", "CONFIG_A=y"), configuration(tmp_path / "b", "CONFIG_B=y\n")],
        tmp_path / "new" / "vmlinux",
        work=tmp_path / "work",
        listener=events.append,
    )
    assert release == "6.1.999"
    assert (tmp_path / "new" / "vmlinux").read_text().startswith("CONFIG_A=y\nCONFIG_B=y\nARCH=")
    assert list((tmp_path / "work").iterdir()) == []
    assert any(isinstance(event, ToolOutput) and "cp .config" in event.line for event in events)
    assert isinstance(events[-1], StepFinished)


def test_a_broken_build_is_an_error(source: DebianKernel, tmp_path: Path) -> None:
    broken = configuration(tmp_path / "a", "BROKEN")
    with pytest.raises(CommandFailed):
        build_kernel(source, [broken], tmp_path / "vmlinux", work=tmp_path)
    assert not (tmp_path / "vmlinux").exists()
    assert not list(tmp_path.glob("bouvet-kernel-*"))


def test_a_missing_configuration_is_an_error(source: DebianKernel, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="nothing"):
        build_kernel(source, [tmp_path / "nothing"], tmp_path / "vmlinux", work=tmp_path)
