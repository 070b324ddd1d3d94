"""The command line: one file a group of commands."""

from fercore.cli.app import app, main

__all__ = ["app", "main"]
