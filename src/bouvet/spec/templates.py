"""Templates without a language: `${NAME}` stands for a value, and `$${NAME}` for itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_REFERENCE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def unknown_names(text: str, known: Iterable[str]) -> list[str]:
    """Return the names that a template uses and that have no value, sorted."""
    used = {found[2] for found in _REFERENCE.finditer(text) if not found[1]}
    return sorted(used - set(known))


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Return a template with its names replaced. Every other `$` stays as it is.

    Raises:
        KeyError: A name has no value.
    """
    return _REFERENCE.sub(lambda found: found[0][1:] if found[1] else values[found[2]], text)
