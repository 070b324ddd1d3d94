"""`fercore plugin new`: a package to begin with. Parse and print, nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fercore.terminal import say

plugin_app = typer.Typer(help="Write a plugin of your own.", no_args_is_help=True)
plugin_app.callback()(lambda: None)  # one command alone would become the group


@plugin_app.command("new")
def plugin_new(
    name: Annotated[str, typer.Argument(help="What --plugin will take: small letters, digits and _.")],
    addon: Annotated[bool, typer.Option("--addon", help="One that runs beside a method.")] = False,
    out: Annotated[Path | None, typer.Option(help="New folder; fercore-NAME here if not given.")] = None,
) -> None:
    """Write the package of a new plugin: method, settings, tests, README, CI and licence; it runs as it is."""
    from fercore.scaffold import new_plugin

    folder = new_plugin(name, addon=addon, out=out)
    say(f"written to {folder}")
    say(f"next: pip install -e {shlex.quote(f'{folder}[test]')} && pytest {shlex.quote(str(folder))}")
