"""The Rust layer: Debian's toolchain at the places where rustup would have put one.

    /usr/local/cargo/bin/    links to the tools; what `cargo install` builds goes here too (CARGO_HOME)
    /usr/local/rustup/       empty (RUSTUP_HOME)

The tools find their libraries from their real path, so links are enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bouvet.errors import LayerError
from bouvet.layers.placing import Placing, newest_time

if TYPE_CHECKING:
    from bouvet.layers.maker import Workshop
    from bouvet.layers.writer import LayerWriter
    from bouvet.plan.steps import RustInputs

REQUIRED = (b"rustc", b"cargo", b"clippy-driver", b"cargo-clippy", b"rustfmt")
"""Tools that the layer must provide."""

OPTIONAL = (b"rustdoc", b"cargo-fmt", b"rust-gdb", b"rust-lldb")
"""Tools that are linked where Debian's packages have them."""


def make(inputs: RustInputs, workshop: Workshop, layer: LayerWriter) -> None:
    """Link the tools of the layers below.

    Raises:
        LayerError: One of the required tools is not in the layers below.
    """
    del inputs
    missing = [name.decode() for name in REQUIRED if b"usr/bin/" + name not in workshop.lower]
    if missing:
        raise LayerError(
            f"the packages bring no {', '.join(missing)}",
            hint="Rust's tools come from the packages that the spec installs (debian.packages)",
        )
    placing = Placing(layer, workshop.lower, mtime=newest_time(workshop.lower))
    placing.directory(b"usr/local/rustup")
    for name in (*REQUIRED, *OPTIONAL):
        if b"usr/bin/" + name in workshop.lower:
            placing.link(b"usr/local/cargo/bin/" + name, b"/usr/bin/" + name)
