"""Looks into finished images, and tells how two differ: no mount, no root, nothing of them executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import bouvet
from bouvet import packing
from bouvet.image.comparison import Comparison, compare_images
from bouvet.image.contents import Contents, Sized, read_contents
from bouvet.image.packages import Package
from bouvet.image.sbom import cyclonedx, spdx

__all__ = ["Comparison", "Contents", "Package", "Sized", "bill_of_materials", "compare", "inspect"]

ROWS = 20
"""How many directories and how many files are told."""

BillForm = Literal["cyclonedx", "spdx"]


def inspect(image: Path, *, rows: int = ROWS) -> Contents:
    """Return what is in an image, and what takes how much.

    Args:
        image: The image. What its layers take is told where the description from its build is beside it.
        rows: How many directories and how many files are told at most.

    Raises:
        FormatError: It holds no ext4 file system, or a damaged one.
        ImageError: It cannot be read.
    """
    return read_contents(image, rows=rows, layer_sizes=packing.described_layers(image))


def bill_of_materials(contents: Contents, form: BillForm) -> dict[str, Any]:
    """Return an image's packages as a CycloneDX 1.5 or SPDX 2.3 document, the same for equal images."""
    write = cyclonedx if form == "cyclonedx" else spdx
    return write(contents, bouvet.__version__)


def compare(first: Path, second: Path) -> Comparison:
    """Return how two images differ.

    Raises:
        FormatError: One of them holds no ext4 file system, or a damaged one.
        ImageError: One of them cannot be read.
    """
    return compare_images(first, second)
