"""The kinds of export by name."""

from __future__ import annotations

from pathlib import Path

from fercore.errors import UserInputError, did_you_mean
from fercore.export.check import FACES
from fercore.export.graph import PIXELS
from fercore.export.onnx import Exported, export_onnx

TARGETS = ("onnx",)


def export_model(model: Path, out: Path, *, to: str, pixels: str = "float", data: str | None = None) -> Exported:
    """Write a model for elsewhere.

    Args:
        model: a run folder, or the `model/` in it. out: what is written; nothing may stand there. to: one of `TARGETS`.
        pixels: what RGB it takes, one of `PIXELS`. data: SPEC of images that it is compared on; None = generated faces.

    Raises:
        UserInputError: for a name that is none of these, and as `export_onnx`.
    """
    for name, known, where in ((to, TARGETS, "--to"), (pixels, PIXELS, "--input")):
        if name not in known:
            raise UserInputError(f"unknown value {name!r}", where=where, fix=did_you_mean(name, known))
    kind = next(kind for kind in PIXELS if kind == pixels)
    return export_onnx(model, out, pixels=kind, data=data or FACES)
