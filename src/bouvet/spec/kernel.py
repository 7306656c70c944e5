"""The kernel that an image is booted with, where nobody names another one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from bouvet.spec.toolchains import Url
from bouvet.spec.values import Architecture, Table, matching

_DIGEST = re.compile(r"[0-9a-f]{64}")

Digest = Annotated[str, matching(_DIGEST, "SHA-256: 64 hexadecimal digits, small letters")]


class Kernel(Table):
    """The kernel for `bouvet run`, `boot` and `verify`; it is no part of the image."""

    source: Literal["debian", "url"] = Field(
        "debian", description="Debian's cloud kernel, or one to download, such as Firecracker's."
    )
    url: dict[Architecture, Url] = Field(
        default_factory=dict,
        description="For 'url': the kernel for each architecture, an ELF vmlinux for x86_64 and an Image for "
        "aarch64.",
    )
    sha256: dict[Architecture, Digest] = Field(
        default_factory=dict, description="For 'url': the SHA-256 of each of them."
    )

    def name(self, architecture: Architecture) -> str:
        """Return the kernel's name for an architecture, as `--kernel` takes it; `debian` without a URL."""
        if architecture in self.url:
            return f"url:{self.url[architecture]}#sha256={self.sha256[architecture]}"
        return "debian"


def kernel_contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go together in the table `kernel` of a spec's data, valid or not."""
    table = data.get("kernel")
    if not isinstance(table, Mapping):
        return
    urls, digests = table.get("url") or {}, table.get("sha256") or {}
    if not isinstance(urls, Mapping) or not isinstance(digests, Mapping):
        return
    if table.get("source", "debian") == "debian":
        if urls or digests:
            yield "kernel: 'url' and 'sha256' mean nothing without kernel.source = 'url'"
    elif not urls:
        yield "kernel: needs 'url', with a kernel for an architecture, with kernel.source = 'url'"
    for architecture in sorted(set(urls) ^ set(digests)):
        missing = "sha256" if architecture in urls else "url"
        yield f"kernel.{missing}.{architecture}: is missing"
