"""`bouvet completion`: scripts that make a shell complete bouvet's commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

EPILOG = """
\b
Where a shell reads its configuration:
  bash  eval "$(bouvet completion bash)"
  zsh   eval "$(bouvet completion zsh)"
  fish  bouvet completion fish | source
"""


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a shell's completion script."""
    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, "bouvet", "_BOUVET_COMPLETE").source())
