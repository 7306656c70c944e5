"""Archives of Debian packages beside Debian's own, each trusted for a few packages only.

    /etc/apt/sources.list.d/NAME.sources    where the archive is, with the key that signs it in `Signed-By`
    /etc/apt/preferences.d/NAME             nothing else comes from there than what it is asked for

A key in the source itself signs that archive and no other, and needs no file that apt would have to find
in the tree and on the host alike.

Source: sources.list(5), deb822 format; apt_preferences(5).
"""

from __future__ import annotations

import itertools
import shlex
import tempfile
from typing import TYPE_CHECKING

from bouvet import process
from bouvet.download import fetch
from bouvet.errors import CommandFailed, LayerError
from bouvet.layers.deb822 import stanza

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.plan.steps import ArchiveInputs

LARGEST_KEY = 1 << 20
"""Bytes that a downloaded public key may have."""

_SECONDS = 60.0


def settings(archive: ArchiveInputs, key: str) -> tuple[str, str]:
    """Return the texts of the archive's source and of its preferences.

    Args:
        archive: The archive.
        key: Its public key, armored.
    """
    source = {
        "Types": "deb",
        "URIs": archive.url,
        "Suites": archive.suite,
        "Components": archive.component,
        "Signed-By": key.strip(),
    }
    # By its suite: one host may mirror Debian's own archive as well.
    pin = f"Pin: release n={archive.suite}"
    preferences = (
        f"Package: *\n{pin}\nPin-Priority: -1\n\n"
        f"Package: {' '.join(archive.packages)}\n{pin}\nPin-Priority: 990\n"
    )
    return stanza(source), preferences


def hooks(archive: ArchiveInputs, workshop: Workshop) -> list[str]:
    """Verify the archive's key; return mmdebstrap's setup hooks that add the archive to a tree.

    Raises:
        DownloadError: The key cannot be downloaded.
        LayerError: It is not the key of the fingerprint that was given.
    """
    directory = workshop.scratch / f"archive-{archive.name}"
    directory.mkdir()
    key = armored_key(_key(archive, workshop), archive)
    commands = []
    for text, place in zip(
        settings(archive, key),
        (f"sources.list.d/{archive.name}.sources", f"preferences.d/{archive.name}"),
        strict=True,
    ):
        file = directory / place.replace("/", "-")
        file.write_text(text)
        commands.append(f'install -D --mode=644 {shlex.quote(str(file))} "$1"/etc/apt/{place}')
    return commands


def armored_key(content: bytes, archive: ArchiveInputs) -> str:
    """Return a public key as text, once it is known to be the right one.

    Args:
        content: The key, armored or binary.
        archive: The archive that it signs.

    Raises:
        LayerError: It is no public key, or not the one of the archive's fingerprint.
    """
    # Not in the scratch space: GnuPG makes sockets in its home, whose paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bouvet-gnupg-") as home:
        gpg = [process.find_tool("gpg"), "--batch", "--no-options", "--no-autostart", f"--homedir={home}"]
        try:
            process.run([*gpg, "--import"], input=content or b"\n", timeout=_SECONDS)
            listed = process.run([*gpg, "--with-colons", "--list-keys"], timeout=_SECONDS)
            found = _fingerprints(listed.stdout.decode(errors="replace"))
            exported = process.run([*gpg, "--armor", "--export", *found], timeout=_SECONDS)
        except CommandFailed as error:
            raise LayerError(f"the key of {archive.url} is no public key", details=error.details) from error
    expected = archive.fingerprint.upper()
    if found != [expected]:
        raise LayerError(
            f"the key of {archive.url} is not the one that was asked for",
            hint="check the fingerprint with those who publish the archive",
            details=(f"expected fingerprint {expected}", f"found fingerprint    {' '.join(found)}"),
        )
    return exported.stdout.decode()


def _fingerprints(listing: str) -> list[str]:
    """Return the primary keys' fingerprints from GnuPG's listing (its doc/DETAILS)."""
    rows = [line.split(":") for line in listing.splitlines()]
    return [after[9] for row, after in itertools.pairwise(rows) if row[0] == "pub" and after[0] == "fpr"]


def _key(archive: ArchiveInputs, workshop: Workshop) -> bytes:
    """Return the key: downloaded, or the user's own."""
    if archive.key.startswith(("http://", "https://")):
        return fetch(archive.key, limit=LARGEST_KEY, cancelled=workshop.cancelled)
    return workshop.sources[archive.key].entries[0].read()
