"""Bills of materials: the members that the specifications require, and the same bytes every time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bouvet.image.contents import Contents, read_contents
from bouvet.image.sbom import cyclonedx, spdx
from tests.unit.image.package_tree import package_tree, write_image
from tests.unit.image.test_packages import PURLS

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
URN = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return read_contents(write_image(tmp_path / "tiny.ext4", package_tree()), rows=10)


def test_cyclonedx(contents: Contents) -> None:
    bill = cyclonedx(contents, "1.2")
    # CycloneDX 1.5: bomFormat and specVersion are required, and type and name of a component.
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.5", 1)
    assert URN.fullmatch(bill["serialNumber"])
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert bill["metadata"]["component"]["name"] == "bouvet-tiny"
    components: list[dict[str, Any]] = bill["components"]
    assert {component["purl"] for component in components} == PURLS
    for component in components:
        assert component["type"] in {"library", "application"}
        assert component["name"]
        assert component["version"]
    references = [component["bom-ref"] for component in components]
    assert len(set(references)) == len(references)
    assert bill["dependencies"] == [{"ref": "image", "dependsOn": references}]


def test_spdx(contents: Contents) -> None:
    bill = spdx(contents, "1.2")
    # SPDX 2.3, clause 6: the mandatory members of a document.
    assert (bill["spdxVersion"], bill["dataLicense"], bill["SPDXID"]) == (
        "SPDX-2.3",
        "CC0-1.0",
        "SPDXRef-DOCUMENT",
    )
    assert bill["name"] == "bouvet-tiny"
    assert URN.fullmatch(bill["documentNamespace"])
    assert "#" not in bill["documentNamespace"]
    assert TIME.fullmatch(bill["creationInfo"]["created"])
    assert bill["creationInfo"]["creators"] == ["Tool: bouvet-1.2"]
    # Clause 7: the mandatory members of a package, whose identifier is unique.
    image, *packages = bill["packages"]
    for package in [image, *packages]:
        assert re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", package["SPDXID"])
        assert package["name"]
        assert package["downloadLocation"] == "NOASSERTION"
        assert package["filesAnalyzed"] is False
    assert {package["externalRefs"][0]["referenceLocator"] for package in packages} == PURLS
    identifiers = [package["SPDXID"] for package in packages]
    assert len(set(identifiers)) == len(identifiers)
    # Clause 11: the document describes the image, which contains the packages.
    related = {(each["spdxElementId"], each["relationshipType"]) for each in bill["relationships"]}
    assert related == {("SPDXRef-DOCUMENT", "DESCRIBES"), ("SPDXRef-Image", "CONTAINS")}
    assert [each["relatedSpdxElement"] for each in bill["relationships"]] == [image["SPDXID"], *identifiers]


@pytest.mark.parametrize("form", [cyclonedx, spdx])
def test_equal_images_have_equal_bills(contents: Contents, tmp_path: Path, form: Any) -> None:
    tree = package_tree()
    again = read_contents(write_image(tmp_path / "again.ext4", tree), rows=3)
    assert json.dumps(form(contents, "1.2")) == json.dumps(form(again, "1.2"))
    del tree[b"usr/lib/node_modules/npm/node_modules/@scope/a/package.json"]
    other = form(read_contents(write_image(tmp_path / "other.ext4", tree), rows=3), "1.2")
    key = "serialNumber" if form is cyclonedx else "documentNamespace"
    assert other[key] != form(contents, "1.2")[key]


def test_a_time_that_has_no_notation(tmp_path: Path) -> None:
    tree = package_tree()
    for inode in tree.values():
        inode.mtime = min(inode.mtime, -(10**9))
    contents = read_contents(write_image(tmp_path / "old.ext4", tree, time=0), rows=3)
    assert cyclonedx(contents, "1.2")["metadata"]["timestamp"] == "1970-01-01T00:00:00Z"
