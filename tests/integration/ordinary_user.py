"""Running programs as an ordinary user with subordinate ids, for tests that root starts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]


def as_nobody(directory: Path, command: list[str], *, subordinate: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the user nobody, with these subordinate ids, in a mount namespace of its own.

    Its home, and what it makes, is in `directory`, which nobody may enter and write. The tests' own
    interpreter can be in root's home, which nobody cannot enter: in the namespace, that home has nothing
    else in it.
    """
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / "ids").write_text(subordinate)
        (Path(own) / "interpreter").mkdir()
        Path(own).chmod(0o755)
        lines = [f"mount --bind {shlex.quote(own)}/ids /etc/{name}" for name in ("subuid", "subgid")]
        prefix, home = Path(sys.base_prefix), Path.home()
        if prefix.is_relative_to(home):
            lines += [
                f"mount --bind {shlex.quote(str(prefix))} {shlex.quote(own)}/interpreter",
                f"mount -t tmpfs -o mode=755 none {shlex.quote(str(home))}",
                f"mkdir -p {shlex.quote(str(prefix))}",
                f"mount --bind {shlex.quote(own)}/interpreter {shlex.quote(str(prefix))}",
            ]
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
        script = " && ".join([*lines, f"exec {shlex.join([*user, *command])}"])
        environment = {
            **os.environ,
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "XDG_CACHE_HOME": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        argv = ["unshare", "--mount", "sh", "-euc", script]
        return subprocess.run(
            argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
