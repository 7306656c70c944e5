"""The guest's own configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from bouvet.spec.values import (
    AbsolutePath,
    AccountName,
    OneLine,
    PathDirectory,
    Table,
    VariableName,
    matching,
)

# RFC 1123, section 2.1, one label.
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
# Names below /usr/share/zoneinfo.
_TIMEZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
# language[_TERRITORY].UTF-8[@modifier], as of locale-gen(8), and the locales of the C library itself.
_LOCALE = re.compile(r"C|POSIX|C\.UTF-8|[a-z]{2,3}(_[A-Z]{2})?\.UTF-8(@[a-z]+)?")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?")


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

    timezone: Annotated[str, matching(_TIMEZONE, "time zone, for example 'Europe/Oslo'")] | None = Field(
        None, description="The local time's zone; UTC if not set. Others need the package tzdata."
    )
    locale: Annotated[str, matching(_LOCALE, "locale, for example 'C.UTF-8' or 'nb_NO.UTF-8'")] | None = (
        Field(None, description="LANG for everything. All but C.UTF-8 need the package locales.")
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_password_locks(cls, data: Any) -> Any:
        # TOML has no null: '--set system.root_password=""' is how a preset's password is taken away.
        if isinstance(data, dict) and data.get("root_password") == "":
            return {**data, "root_password": None}
        return data


class User(Table):
    """An account of its own, with a group of the same name."""

    name: AccountName = Field(description="Its name.")
    uid: int | None = Field(
        None, description="Its number, and its group's; the first free from 1000 if not set.", ge=1, le=59999
    )
    shell: AbsolutePath = Field("/bin/bash", description="Its login shell.")
    groups: tuple[AccountName, ...] = Field((), description="Further groups; they must exist.", strict=False)
    password: OneLine | None = Field(
        None, description="In clear text; not set, or empty: no password opens the account."
    )
    home: PathDirectory | None = Field(None, description="Its home; /home/NAME if not set.")

    @model_validator(mode="after")
    def _not_root(self) -> Self:
        if self.name == "root":
            raise ValueError("root is there already; its password is system.root_password")
        return self


class Services(Table):
    """Units of systemd that start with the system, or do not."""

    enable: tuple[Annotated[str, matching(_UNIT, "unit's name")], ...] = Field(
        (), description="Units to enable; '.service' may be left out.", strict=False
    )
    disable: tuple[Annotated[str, matching(_UNIT, "unit's name")], ...] = Field(
        (), description="Units to disable.", strict=False
    )
