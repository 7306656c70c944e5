"""What is left out of packages, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bouvet.spec.values import OneLine, PathPattern, Table


class Exclusion(Table):
    """A pattern of paths that no package brings."""

    path: PathPattern = Field(description="A dpkg path-exclude pattern: '*' also matches '/'.")
    reason: OneLine = Field("", description="Why nothing needs it.")
    architecture: Literal["x86_64", "aarch64"] | None = Field(
        None, description="The only architecture whose images go without it; both if not set."
    )


class Slim(Table):
    """What Debian's packages bring that the image goes without, now and when more are installed."""

    exclude: tuple[Exclusion, ...] = Field((), description="Paths that are left out.", strict=False)
    keep: tuple[PathPattern, ...] = Field(
        (), description="Patterns of paths that stay, whatever 'exclude' says.", strict=False
    )
