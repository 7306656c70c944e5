"""Programs that run as root of namespaces of their own: what makes trees with other owners than the user.

As root these are mount and process namespaces; an ordinary user gets a user namespace around them, whose
other owners are the user's subordinate ids. So there is one way for both, and when bouvet is killed the
kernel removes every process and every mount.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bouvet import process
from bouvet.errors import CommandFailed, LayerError


def enter_namespaces(*further: str, user: int | None = None) -> list[str]:
    """Return the start of a command line that runs the rest as root in namespaces of its own.

    Args:
        further: Options of `unshare` for more namespaces than those of mounts and processes.
        user: The user id to do it for; by default the current one.

    Raises:
        LayerError: The host does not let an ordinary user have a user namespace with subordinate ids.
        ToolMissing: `newuidmap` is not installed.
    """
    argv = [process.find_tool("unshare", package="util-linux"), "--mount", "--pid", "--fork", "--kill-child"]
    argv += further
    if (os.geteuid() if user is None else user) == 0:
        return argv
    process.find_tool("newuidmap", package="uidmap")
    argv += ["--user", "--map-root-user", "--map-auto"]
    try:
        process.run([*argv, "true"], timeout=30)
    except CommandFailed as error:
        raise LayerError(
            "this host does not let an ordinary user make trees with other owners",
            hint=namespace_hint("\n".join(error.details[1:])),
            details=error.details,
        ) from error
    return argv


def namespace_hint(text: str) -> str:
    """Return what to do about a failure to make a user namespace, of which `unshare` printed `text`."""
    if re.search(r"/etc/sub[ug]id|new[ug]idmap", text):
        return 'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$USER" (as root, once)'
    return (
        "allow user namespaces (as root: sysctl kernel.unprivileged_userns_clone=1, or "
        "kernel.apparmor_restrict_unprivileged_userns=0), or run as root"
    )


def run_module(module: str, arguments: Sequence[str]) -> bytes:
    """Run one of bouvet's modules as root of its own namespaces; return what it printed.

    Raises:
        LayerError: The host does not let an ordinary user have them.
        CommandFailed: It ended with an error.
    """
    argv = [*enter_namespaces(), *python(module), *arguments]
    return process.run(argv, env=python_environment()).stdout


def python(module: str) -> list[str]:
    """Return the start of a command line that runs one of bouvet's modules in a process of its own."""
    # -P: whatever lies in the user's working directory is not to be imported.
    return [sys.executable, "-P", "-m", module]


def python_environment() -> dict[str, str]:
    """Return the environment of such a process: it imports this very package."""
    return process.clean_environment({"PYTHONPATH": str(Path(__file__).parents[2])})


def remove_tree(directory: Path) -> None:
    """Remove a directory with all that is in it, whoever owns that; what cannot be removed stays."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists() and os.geteuid() != 0:
        # Owned by subordinate ids: only their namespace's root may.
        with contextlib.suppress(LayerError, CommandFailed):
            process.run([*enter_namespaces(), "rm", "-rf", "--one-file-system", str(directory)])
