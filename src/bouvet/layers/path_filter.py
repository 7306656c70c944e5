"""Which paths of packages dpkg leaves out: its `path-exclude` and `path-include` patterns.

Source: dpkg(1), the options of these names; dpkg's src/main/filters.c.
"""

from __future__ import annotations

import fnmatch
import re
import tarfile
from collections.abc import Iterable

_WILDCARDS = re.compile(r"[*?\[\\]")


class PathFilter:
    """Says of a package's files whether they are kept.

    Args:
        exclude: Patterns of paths that are left out; `*` matches slashes too.
        include: Patterns of exceptions.
    """

    def __init__(self, exclude: Iterable[str], include: Iterable[str]) -> None:
        include = list(include)
        self._excluded, self._included = _any(exclude), _any(include)
        self._prefixes = tuple(_WILDCARDS.split(pattern)[0].rstrip("/") for pattern in include)

    def __call__(self, member: tarfile.TarInfo) -> bool:
        """Return whether a file of a package, with its name as in the package, is kept."""
        path = member.name.removeprefix(".")
        if not self._excluded.match(path) or self._included.match(path):
            return True
        # A directory, or a link to one, on the way to what an exception may bring back.
        return (member.isdir() or member.issym()) and path.startswith(self._prefixes)


def _any(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", re.DOTALL)
