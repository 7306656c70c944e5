"""The Debian tree that an image starts with."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from bouvet.spec.values import Lines, PackageName, Table, matching

_SUITE = re.compile(r"[a-z][a-z0-9.-]*")


class Debian(Table):
    """The Debian tree below everything else."""

    suite: Annotated[str, matching(_SUITE, "suite's code name, for example 'bookworm'")] = Field(
        "bookworm", description="The release's code name."
    )
    mirror: Lines | None = Field(
        None,
        description="The URL of a mirror's 'debian' directory, or whole lines for apt ('deb URL SUITE main', "
        "one for the suite, one for its updates, one for its security); mmdebstrap's own "
        "default if it is not set.",
    )
    snapshot: Lines | None = Field(
        None,
        description="Where packages of a lock come from that the mirror has no longer, in the same forms.",
    )
    packages: tuple[PackageName, ...] = Field(
        (), description="Packages to install beside the essential ones.", strict=False
    )
