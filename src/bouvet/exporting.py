"""Writes images for container tools: an order's layers, one a step, or a finished image as one layer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bouvet.booting import image_architecture
from bouvet.errors import ImageError
from bouvet.events import Listener, StepFinished, StepProgress, StepStarted, ignore
from bouvet.formats.ext4 import Ext4Reader
from bouvet.image import oci
from bouvet.image.output import replacing
from bouvet.image.service import read_service
from bouvet.image.verify import manifest_expectation
from bouvet.layers.store import Store, default_root
from bouvet.making import make_layers, renewing_corrupt_layers
from bouvet.order import Order
from bouvet.pipeline import manifest_tree, newest

_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export came to: the archive, its size in bytes, and the digests in it."""

    archive: Path
    size: int
    manifest: str
    configuration: str
    layers: tuple[str, ...]


def export(
    order: Order,
    target: Path,
    *,
    refresh: bool = False,
    cache: Path | None = None,
    listener: Listener = ignore,
) -> ExportResult:
    """Write an OCI archive, which is a docker-archive too, with one layer a step.

    Args:
        order: What to build; its name is the container image's.
        target: The archive's path; it appears whole or not at all.
        refresh: Make every layer anew, whatever the cache has.
        cache: The cache's directory; the user's by default.
        listener: Is told of the progress.

    Raises:
        BouvetError: A step or the archive failed; an archive that was there before is left as it was.
    """
    order.fetch(refresh=refresh, listener=listener)
    written: list[ExportResult] = []

    def work(renew: bool, store: Store) -> None:
        layers = make_layers(order, store, renew, listener)
        trees = [(layer.name, layer.tree) for layer in layers]
        trees.append(("manifest", manifest_tree(order, layers)))
        service = None if order.container is None else order.container.service
        configuration = oci.OciConfiguration(
            architecture=order.architecture,
            created=max(0, newest(layers) // _BILLION),
            name=order.name,
            environment=order.environment,
            entrypoint=() if service is None else service.entrypoint,
            command=("/bin/bash",) if service is None else service.command,
            working_directory="/root" if service is None else service.directory,
            user="" if service is None else service.user,
        )
        content = [oci.OciLayer(name, tree, f"bouvet {name}") for name, tree in trees]
        written.append(_write_archive(content, configuration, target, listener))

    with Store(cache or default_root()) as store:
        renewing_corrupt_layers(lambda renew: work(renew, store), store, refresh=refresh, listener=listener)
    return written[-1]


def export_image(image: Path, target: Path, *, name: str, listener: Listener = ignore) -> ExportResult:
    """Write a finished image as an OCI archive, which is a docker-archive too, of one layer.

    Args:
        image: The ext4 image.
        target: The archive's path; it appears whole or not at all.
        name: The container image's name.
        listener: Is told of the progress.

    Raises:
        BouvetError: It is no image, or the archive cannot be written.
    """
    architecture = image_architecture(image)
    expected = manifest_expectation(image)
    try:
        with Ext4Reader(image) as reader:
            content = {path: inode for path, inode in reader.tree().items() if path != b"lost+found"}
            service = read_service(content)
            configuration = oci.OciConfiguration(
                architecture=architecture,
                created=max(0, max((inode.mtime for inode in content.values()), default=0) // _BILLION),
                name=name,
                environment=(("PATH", ":".join(expected.path)), *expected.environment),
                command=("/bin/bash",) if service is None else service.arguments,
                working_directory="/root" if service is None else service.directory,
                user="" if service is None else service.user,
            )
            layer = oci.OciLayer("image", content, "bouvet image")
            return _write_archive([layer], configuration, target, listener)
    except OSError as error:
        raise ImageError(f"cannot read {image}: {error.strerror or error}") from error


def _write_archive(
    layers: Sequence[oci.OciLayer], configuration: oci.OciConfiguration, target: Path, listener: Listener
) -> ExportResult:
    listener(StepStarted("archive", "asked for"))
    started = time.monotonic()
    with replacing(target) as descriptor:
        written = oci.write_archive(
            layers,
            configuration,
            descriptor,
            progress=lambda fraction: listener(StepProgress("archive", "writing", fraction)),
        )
    outcome = f"{target}, {written.size / (1 << 20):.1f} MiB, {len(layers)} layers"
    listener(StepFinished("archive", time.monotonic() - started, outcome))
    return ExportResult(target, written.size, written.manifest, written.configuration, written.layers)
