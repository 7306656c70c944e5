"""What an image must do when it runs."""

from __future__ import annotations

from pydantic import Field

from bouvet.spec.values import OneLine, Table, Text


class TestCommand(Table):
    """A command that `bouvet verify` runs in the booted guest."""

    name: OneLine = Field(description="The requirement, in a few words.", min_length=1)
    run: Text = Field(description="Run by 'sh -c' as root.", min_length=1)
    expect_status: int = Field(0, description="The exit status that is right.", ge=0, le=255)
    expect_output: OneLine | None = Field(
        None, description="An extended regular expression, as of grep -E, that a line of its output matches."
    )


class Test(Table):
    """The image's own tests."""

    commands: tuple[TestCommand, ...] = Field((), description="The commands.", strict=False)
