"""`fercore weights`: pretrained weights that packages carry. Parse and print, nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from fercore.terminal import say

weights_app = typer.Typer(help="Pretrained weights that Python packages carry.", no_args_is_help=True)


@weights_app.command("list")
def weights_list() -> None:
    """List weights that load without a download by fercore, and which of them are installed."""
    from fercore.models.packaged import WEIGHTS

    for name in WEIGHTS:
        entry = WEIGHTS[name]
        here = "installed" if entry.path() else entry.pip_line
        say(f"{name:<20} {entry.backbone:<24} {entry.trained_on:<10} {entry.licence:<12} {here}")


@weights_app.command("get")
def weights_get(name: Annotated[str, typer.Argument(help="A name of `fercore weights list`.")]) -> None:
    """Check a file of weights and print the settings that use it; installs nothing."""
    from fercore.models.packaged import PREFIX, packaged, packaged_file

    path = packaged_file(name)
    say(f"{path}")
    if packaged(name).classifier:
        say(f"--init {PREFIX}{name}")
    say(f"--set model.backbone={packaged(name).backbone} --set model.weights={PREFIX}{name}")
