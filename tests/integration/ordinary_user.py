"""Running programs as an ordinary user with subordinate ids, for tests that root starts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]


def as_nobody(
    directory: Path, command: list[str], *, subordinate: str, hidden: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command as the user nobody, with these subordinate ids, in a mount namespace of its own.

    Its home, and what it makes, is in `directory`, which nobody may enter and write. The tests' own
    interpreter and sources can be in root's home, which nobody cannot enter: in the namespace, that home
    has nothing else in it. Hidden directories of the host are empty.
    """
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / "ids").write_text(subordinate)
        Path(own).chmod(0o755)
        lines = [f"mount --bind {shlex.quote(own)}/ids /etc/{name}" for name in ("subuid", "subgid")]
        lines += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(place))}" for place in hidden]
        home = Path.home()
        needed = [place for place in (Path(sys.base_prefix), REPOSITORY) if place.is_relative_to(home)]
        for number, place in enumerate(needed):
            (Path(own) / str(number)).mkdir()
            lines.append(f"mount --bind {shlex.quote(str(place))} {shlex.quote(own)}/{number}")
        if needed:
            lines.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(home))}")
        for number, place in enumerate(needed):
            lines.append(f"mkdir -p {shlex.quote(str(place))}")
            lines.append(f"mount --bind {shlex.quote(own)}/{number} {shlex.quote(str(place))}")
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
        script = " && ".join(
            [*lines, f"cd {shlex.quote(str(REPOSITORY))}", f"exec {shlex.join([*user, *command])}"]
        )
        environment = {
            **os.environ,
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "XDG_CACHE_HOME": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
            # What may not be skipped by root may be by somebody else.
            "BOUVET_REQUIRE": "tools",
        }
        argv = ["unshare", "--mount", "sh", "-euc", script]
        return subprocess.run(
            argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
