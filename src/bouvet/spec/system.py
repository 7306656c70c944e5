"""The guest's own configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from bouvet.spec.values import OneLine, PathDirectory, Table, VariableName, matching

# RFC 1123, section 2.1, one label.
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")


class System(Table):
    """The guest's own configuration."""

    hostname: Annotated[str, matching(_HOSTNAME, "host name (letters, digits, '-', at most 63)")] = Field(
        "bouvet", description="The host name."
    )
    root_password: OneLine | None = Field(
        None, description="Root's password in clear text; not set, or empty: the account is locked."
    )
    network: bool = Field(True, description="Whether eth0 takes its address by DHCP.")
    path: tuple[PathDirectory, ...] = Field(
        ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
        description="PATH of login shells, services and the agent's children.",
        min_length=1,
        strict=False,
    )
    environment: dict[VariableName, OneLine] = Field(
        default_factory=dict, description="Further variables for the same."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_password_locks(cls, data: Any) -> Any:
        # TOML has no null: '--set system.root_password=""' is how a preset's password is taken away.
        if isinstance(data, dict) and data.get("root_password") == "":
            return {**data, "root_password": None}
        return data
