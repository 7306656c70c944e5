"""Units that are enabled and disabled by links."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, regular_file, symlink
from bouvet.layers.services import links_to_enable, links_to_remove, starts_anyway

UNITS = {
    "web.service": "[Unit]\nDescription=x\n[Install]\nWantedBy=multi-user.target \\\n  graphical.target\n"
    "Alias=www.service\n",
    "pair.service": "[Install]\nWantedBy=multi-user.target\nAlso=pair.socket\n",
    "pair.socket": "[Install]\nRequiredBy=sockets.target\n",
    "port@.service": "[Install]\nWantedBy=multi-user.target\n",
    "emptied.service": "[Install]\nWantedBy=a.target\nWantedBy=\nWantedBy=b.target\n# WantedBy=c.target\n",
    "static.service": "[Service]\nExecStart=/bin/true\n",
    "shipped.service": "[Install]\nWantedBy=multi-user.target\n",
}


def tree() -> FileTree:
    made: FileTree = {
        f"usr/lib/systemd/system/{name}".encode(): regular_file(text.encode()) for name, text in UNITS.items()
    }
    made[b"usr/lib/systemd/system/multi-user.target.wants/shipped.service"] = symlink(b"../shipped.service")
    made[b"etc/systemd/system/multi-user.target.wants/pair.service"] = symlink(
        b"/lib/systemd/system/pair.service"
    )
    made[b"etc/systemd/system/other.service"] = symlink(b"/lib/systemd/system/pair.service")
    made[b"etc/systemd/system/masked.service"] = symlink(b"/dev/null")
    return made


def links(unit: str) -> dict[str, str]:
    return {
        path.decode().removeprefix("etc/systemd/system/"): target.decode()
        for path, target in links_to_enable(tree(), unit).items()
    }


@pytest.mark.parametrize("unit", ["web", "web.service"])
def test_the_links_of_the_install_section(unit: str) -> None:
    place = "/usr/lib/systemd/system/web.service"
    assert links(unit) == {
        "multi-user.target.wants/web.service": place,
        "graphical.target.wants/web.service": place,
        "www.service": place,
    }


def test_what_goes_along_and_instances_and_reset_lists() -> None:
    assert set(links("pair")) == {
        "multi-user.target.wants/pair.service",
        "sockets.target.requires/pair.socket",
    }
    assert links("port@80") == {
        "multi-user.target.wants/port@80.service": "/usr/lib/systemd/system/port@.service"
    }
    assert set(links("emptied")) == {"b.target.wants/emptied.service"}


@pytest.mark.parametrize("name", ["web.service", "pair.service", "port@80.service", "emptied.service"])
@pytest.mark.needs_tool("systemctl")
def test_the_links_are_those_of_systemctl(tmp_path: Path, name: str) -> None:
    """By systemd's own tool, on a tree of the same units."""
    for unit, text in UNITS.items():
        path = tmp_path / "usr/lib/systemd/system" / unit
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(
        ["systemctl", f"--root={tmp_path}", "enable", name], check=True, capture_output=True, timeout=60
    )
    configured = tmp_path / "etc/systemd/system"
    made = {str(path.relative_to(configured)) for path in configured.rglob("*") if path.is_symlink()}
    assert made == set(links(name))


@pytest.mark.parametrize(
    ("unit", "said"),
    [("nothing", "no unit nothing.service"), ("static", "cannot be enabled"), ("masked", "is masked")],
)
def test_what_cannot_be_enabled(unit: str, said: str) -> None:
    with pytest.raises(LayerError, match=said):
        links(unit)


def test_an_unknown_unit_names_the_nearest() -> None:
    with pytest.raises(LayerError) as caught:
        links("wbe")
    assert caught.value.hint == "did you mean web.service?"


def test_disabling_removes_links_and_aliases() -> None:
    assert set(links_to_remove(tree(), "pair")) == {
        b"etc/systemd/system/multi-user.target.wants/pair.service",
        b"etc/systemd/system/other.service",
    }
    assert not starts_anyway(tree(), "pair")
    assert starts_anyway(tree(), "shipped")
