"""An image's packages as a software bill of materials.

Sources: CycloneDX 1.5, JSON; SPDX 2.3, JSON, clauses 6 (document creation information), 7 (package
information) and 11 (relationships). Equal contents give equal documents: their time is the image's, and
their identity is made of the content.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import uuid
from typing import Any

from bouvet.image.contents import Contents
from bouvet.image.packages import Package

_UNKNOWN = "NOASSERTION"
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999, after which there is no such notation of time."""


def cyclonedx(contents: Contents, tool_version: str) -> dict[str, Any]:
    """Return a CycloneDX 1.5 document of an image's packages, made by a version of bouvet."""
    references = [_reference(package) for package in contents.packages]
    name = _name(contents)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{_identity(contents, 'CycloneDX')}",
        "version": 1,
        "metadata": {
            "timestamp": _time(contents),
            "tools": {"components": [{"type": "application", "name": "bouvet", "version": tool_version}]},
            "component": {"type": "operating-system", "bom-ref": "image", "name": name},
        },
        "components": [
            _component(package, reference)
            for package, reference in zip(contents.packages, references, strict=True)
        ],
        "dependencies": [{"ref": "image", "dependsOn": references}],
    }


def spdx(contents: Contents, tool_version: str) -> dict[str, Any]:
    """Return an SPDX 2.3 document of an image's packages, made by a version of bouvet."""
    name = _name(contents)
    image = {
        "SPDXID": "SPDXRef-Image",
        "name": name,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    }
    identifiers = [f"SPDXRef-Package-{_identifier(package)}" for package in contents.packages]
    described = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")]
    contained = [("SPDXRef-Image", "CONTAINS", identifier) for identifier in identifiers]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{_identity(contents, 'SPDX')}",
        "creationInfo": {
            "created": _time(contents),
            "creators": [f"Tool: bouvet-{tool_version}"],
        },
        "packages": [
            image,
            *(
                _spdx_package(package, identifier)
                for package, identifier in zip(contents.packages, identifiers, strict=True)
            ),
        ],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in [*described, *contained]
        ],
    }


def _component(package: Package, reference: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "application" if package.kind in {"generic", "cargo"} else "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "properties": [{"name": "bouvet:record", "value": package.place}],
    }
    if package.licence:
        component["licenses"] = [{"license": {"name": package.licence}}]
    return component


def _spdx_package(package: Package, identifier: str) -> dict[str, Any]:
    purl = {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": package.purl,
    }
    return {
        "SPDXID": identifier,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "externalRefs": [purl],
        # What a package says of its licence need not be an expression that SPDX allows.
        **({"licenseComments": package.licence} if package.licence else {}),
    }


def _reference(package: Package) -> str:
    """Return what a component is called in its document: one package may be there more than once."""
    return f"{package.purl}#{_digest(package)}"


def _identifier(package: Package) -> str:
    """Return the same of the letters that SPDX allows: letters, digits, `.` and `-`."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", package.name)
    return f"{package.kind}-{name}-{_digest(package)}"


def _digest(package: Package) -> str:
    return hashlib.sha256(f"{package.purl}\0{package.place}".encode()).hexdigest()[:16]


def _name(contents: Contents) -> str:
    return contents.name or contents.label or "image"


def _identity(contents: Contents, form: str) -> uuid.UUID:
    """Return a UUID of a document's content."""
    lines = [form, _name(contents), contents.uuid, str(contents.created)]
    lines += [f"{package.purl}\0{package.place}\0{package.licence}" for package in contents.packages]
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).digest()
    return uuid.UUID(bytes=digest[:16], version=4)


def _time(contents: Contents) -> str:
    moment = datetime.datetime.fromtimestamp(min(contents.created, _LAST_SECOND), tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
