"""The command line: one file a command group."""

from bouvet.cli.main import main

__all__ = ["main"]
