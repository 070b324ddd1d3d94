"""`fercore export`: a trained model for elsewhere. Parse and print, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fercore.errors import UserInputError
from fercore.terminal import say


def export(
    model: Annotated[Path, typer.Argument(help="A run folder, or the model/ in it.")],
    to: Annotated[str, typer.Option(help="onnx, torch or hub.")],
    out: Annotated[Path, typer.Option(help="New file .onnx or .pt2, or new folder.")],
    pixels: Annotated[
        str, typer.Option("--input", help="RGB it takes: float (0..1), uint8 (0..255) or emotiefflib.")
    ] = "float",
    half: Annotated[bool, typer.Option("--half", help="ONNX in float16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="ONNX whose convolutions and products are of int8.")] = False,
    data: Annotated[
        str | None, typer.Option(help="SPEC of images that it is compared on; generated faces if not given.")
    ] = None,
) -> None:
    """Write a model for elsewhere, with normalisation and probabilities inside, once it says what the model says."""
    from fercore.data.spec import parse_spec
    from fercore.export.targets import export_model

    if half and int8:
        raise UserInputError("two kinds of arithmetic", where="--half, --int8", fix="leave one out")
    form = "half" if half else "int8" if int8 else "float32"
    exported = export_model(model, out, to=to, pixels=pixels, form=form, data=parse_spec(data) if data else None)
    for line in (*exported.lines(), "", *exported.usage):
        say(line)
