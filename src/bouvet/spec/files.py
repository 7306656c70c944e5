"""Files of the user's own, and steps that run in the tree."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from bouvet.spec.values import (
    AbsolutePath,
    AccountName,
    HostPath,
    OneLine,
    Table,
    Text,
    VariableName,
    matching,
)

CACHES = {
    "apt": "/var/cache/apt/archives",
    "cargo": "/usr/local/cargo/registry",
    "npm": "/root/.npm",
    "pip": "/root/.cache/pip",
}
"""The caches that have a name, and where they are in the tree."""

_MODE = re.compile(r"0?[0-7]{3,4}")
_OWNER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\$?|\d{1,10}")
_STEP = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_CACHE = re.compile(rf"{'|'.join(CACHES)}|/[^\0:]*[^\0:/]")
_EXCLUDE = re.compile(r"[^/\0\n][^\0\n]*")

Owner = Annotated[str, matching(_OWNER, "name or number of an account")]


class File(Table):
    """A file, a directory with all that is in it, or an empty directory (its path ends in '/')."""

    path: AbsolutePath = Field(description="Where it goes.")
    content: Text | None = Field(None, description="Its text.")
    source: HostPath | None = Field(
        None, description="A file or directory of the host, relative to the spec's own."
    )
    exclude: tuple[Annotated[str, matching(_EXCLUDE, "pattern of a relative path")], ...] = Field(
        (),
        description="What is left out of a directory: patterns of names ('*.o', 'target') or of paths "
        "('docs/*.md').",
        strict=False,
    )
    mode: Annotated[str, matching(_MODE, "mode; write octal digits as text, for example '0755'")] | None = (
        Field(None, description="Permission bits; 0644 or 0755 by whether the host's file is executable.")
    )
    owner: Owner = Field("root", description="The owner's name in the image, or number.")
    group: Owner | None = Field(None, description="The group's name, or number; the owner's own if not set.")
    template: bool = Field(False, description="Whether ${NAME} stands for the value in [variables].")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = (self.content is not None) + (self.source is not None)
        if self.path.endswith("/"):
            if given:
                raise ValueError("a path that ends in '/' is an empty directory, without content and source")
        elif given != 1:
            raise ValueError("needs either 'content' or 'source'; an empty directory's path ends in '/'")
        if self.template and not given:
            raise ValueError("a directory is no template")
        if self.exclude and self.source is None:
            raise ValueError("'exclude' goes with a directory as 'source'")
        return self


class Run(Table):
    """A step that executes a shell script in the tree; what it changes becomes a layer."""

    name: Annotated[str, matching(_STEP, "name of a step (small letters, digits, '-')")] | None = Field(
        None, description="What it is called in progress and plans; run-1, run-2, … if not set."
    )
    script: Text = Field(description="Run by 'sh -e'.", min_length=1)
    user: AccountName = Field("root", description="Who runs it.")
    network: bool = Field(False, description="Whether it has the host's network.")
    caches: tuple[Annotated[str, matching(_CACHE, f"cache ({', '.join(CACHES)}, or a path)")], ...] = Field(
        (), description="Directories that are kept between builds and are no part of the image.", strict=False
    )
    env: dict[VariableName, OneLine] = Field(default_factory=dict, description="Further variables.")
    cwd: AbsolutePath = Field("/", description="Where it starts.")
