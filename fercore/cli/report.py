"""`fercore report`: one HTML file on a run or a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fercore import api


def report(
    path: Annotated[Path, typer.Argument(metavar="RUN|COMPARISON", help="Folder that `run` or `compare` wrote.")],
    out: Annotated[Path | None, typer.Option(help="A new file; without it report.html there, made anew.")] = None,
    faces: Annotated[bool, typer.Option("--faces/--no-faces", help="Face images are personal data.")] = True,
) -> None:
    """Write scores, curves, features and faces of a run or a comparison into one HTML file that needs no network."""
    from fercore import console

    console.print_lines([f"written to {api.report(path, out=out, faces=faces)}"])
