"""What package managers inside a tree get of the user's own settings: registries and certificates.

A proxy that looks into TLS, or a registry of the user's own, must work for them as it does on the host.
Nothing of it is left in the layer: files are shown for the time of the command only.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bouvet.layers.commands import FILES

_CERTIFICATES = "certificates.pem"
# Each program has a name of its own for the same file.
_CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Files and variables for a command.

    Attributes:
        files: Contents by name, as of `Command`.
        environment: Variables, as of `Command`.
    """

    files: Mapping[str, bytes]
    environment: Mapping[str, str]


def client_settings(*prefixes: str) -> ClientSettings:
    """Return the certificates that the host trusts, and the user's variables with these prefixes.

    Args:
        prefixes: Of variables' names, in capitals, for example `PIP_`.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        # Paths of the host mean nothing in a tree.
        if name.upper().startswith(prefixes) and not value.startswith(("/", "file:", "~"))
    }
    files = {}
    bundle = Path(os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or "")
    if bundle.is_file():
        files[_CERTIFICATES] = bundle.read_bytes()
        environment |= dict.fromkeys(_CERTIFICATE_VARIABLES, f"{FILES}/{_CERTIFICATES}")
    return ClientSettings(files, environment)
