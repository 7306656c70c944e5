"""Errors: what scripts rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bouvet import errors
from bouvet.errors import BouvetError, ImageTooSmall, LayerCorrupt


def all_errors(base: type[BouvetError] = BouvetError) -> Iterator[type[BouvetError]]:
    yield base
    for error in base.__subclasses__():
        yield from all_errors(error)


def test_every_exit_code_means_one_thing() -> None:
    owners: dict[int, type[BouvetError]] = {}
    for error in all_errors():
        if "exit_code" in vars(error):
            assert error.exit_code not in owners, f"{error.__name__} and {owners[error.exit_code].__name__}"
            owners[error.exit_code] = error
        else:
            assert error.__base__ is not BouvetError, f"{error.__name__} has no exit code of its own"
    # 0 is success; from 126 on the shell and signals have their own meanings.
    assert all(1 <= code < 126 for code in owners)


def test_every_error_is_documented() -> None:
    assert all(error.__doc__ for error in all_errors())


def test_an_error_keeps_its_parts_apart() -> None:
    error = errors.LayerError("the layer failed", hint="try again", details=("first", "second"))
    assert (str(error), error.hint, error.details) == ("the layer failed", "try again", ("first", "second"))


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ImageTooSmall("too small", needed=4096), "needed", 4096),
        (LayerCorrupt("corrupt", digest="ab"), "digest", "ab"),
    ],
)
def test_errors_carry_what_their_handler_needs(error: BouvetError, name: str, value: object) -> None:
    assert getattr(error, name) == value
    assert error.hint is None
