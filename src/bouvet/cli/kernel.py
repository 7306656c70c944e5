"""`bouvet kernel`: kernels to boot images with."""

from __future__ import annotations

from pathlib import Path

import click

from bouvet import pipeline
from bouvet.cli.options import output_options, print_json
from bouvet.cli.progress import progress
from bouvet.errors import KernelError
from bouvet.plan import ARCHITECTURES, host_architecture


@click.group("kernel")
def command() -> None:
    """List, fetch and show kernels to boot images with."""


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def list_kernels(as_json: bool) -> None:
    """List the cached kernels."""
    kernels = pipeline.kernel_cache().list()
    if as_json:
        print_json([pipeline.as_json(kernel) for kernel in kernels])
        return
    for kernel in kernels:
        click.echo(f"{kernel.digest[:12]}  {kernel.architecture:8}  {kernel.release:28}  {kernel.name}")


@command.command("fetch")
@click.argument("kernel", default="debian")
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="The architecture; the host's if not given.")
@output_options
def fetch(kernel: str, arch: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Fetch a kernel: 'debian' (the newest cloud kernel), 'file:PATH', or 'url:URL#sha256=DIGEST'."""
    source = pipeline.parse_kernel(kernel, arch or host_architecture())
    with progress(quiet=quiet, verbose=verbose) as listener:
        found = pipeline.kernel_cache().fetch(source, listener=listener)
    _show(pipeline.as_json(found), as_json)


@command.command("show")
@click.argument("kernel", default="debian")
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="The architecture; the host's if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(kernel: str, arch: str | None, as_json: bool) -> None:
    """Show what is known about a cached kernel."""
    found = pipeline.kernel_cache().find(pipeline.parse_kernel(kernel, arch or host_architecture()))
    if found is None:
        raise KernelError(f"the kernel '{kernel}' is not in the cache", hint=f"bouvet kernel fetch {kernel}")
    _show(pipeline.as_json(found), as_json)


@command.command("extract")
@click.argument("kernel", default="debian")
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="The architecture; the host's if not given.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("vmlinux"),
    show_default=True,
    help="A file.",
)
@output_options
def extract(
    *, kernel: str, arch: str | None, output: Path, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Write a kernel unpacked, as Firecracker boots it: an ELF 'vmlinux' for x86_64, an 'Image' for aarch64.

    KERNEL is what 'fetch' takes; with 'file:vmlinuz' the kernel inside a bzImage is taken out.
    """
    source = pipeline.parse_kernel(kernel, arch or host_architecture())
    with progress(quiet=quiet, verbose=verbose) as listener:
        found = pipeline.kernel_cache().extract(source, output, listener=listener)
    if as_json:
        print_json({**pipeline.as_json(found), "output": str(output)})
    else:
        click.echo(output)


@command.command("build")
@click.option(
    "--config",
    "configs",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A configuration file; where several differ the later one counts.",
)
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="The architecture; the host's if not given.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("vmlinuz"),
    show_default=True,
    help="A file.",
)
@output_options
def build(
    *,
    configs: tuple[Path, ...],
    arch: str | None,
    output: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Build a kernel from Debian's linux-source package. It takes minutes; boot it as 'file:PATH'."""
    source = pipeline.DebianKernel(arch or host_architecture())
    with progress(quiet=quiet, verbose=verbose) as listener:
        release = pipeline.build_kernel(source, configs, output, listener=listener)
    if as_json:
        print_json({"image": str(output), "release": release})
    else:
        click.echo(output)


def _show(row: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        values = value if isinstance(value, list) else [value]
        for one in values:
            click.echo(f"{key + ':':14}{one}")
