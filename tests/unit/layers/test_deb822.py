"""Stanzas of deb822 files."""

from bouvet.layers.deb822 import stanza


def test_fields_of_one_line_and_of_several() -> None:
    fields = {"Types": "deb", "Architectures": "", "Signed-By": "-----BEGIN\n\n  x=\n-----END\n"}
    assert stanza(fields) == "Types: deb\nSigned-By:\n -----BEGIN\n .\n x=\n -----END\n"
