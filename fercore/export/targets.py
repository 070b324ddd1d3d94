"""`export_model`: from a model to a file for elsewhere, compared before it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from torch.export import ExportedProgram

from fercore.data.spec import DomainSpec
from fercore.engine.model_record import find_model
from fercore.errors import UserInputError, did_you_mean
from fercore.export import onnx, torch_archive
from fercore.export.check import IMAGES, Answer, Bound, Exported, Feed, check, read_sample, refuse_worse
from fercore.export.graph import EMOTIEFFLIB, PIXELS, trace
from fercore.export.hub import export_hub
from fercore.export.origin import SCALES, describe, render
from fercore.models.initial.frozen_graph import FrozenGraph
from fercore.prediction.predictor import Predictor, load_predictor
from fercore.writing import refuse_taken, whole

HUB: Final = "hub"
RECOGNISERS: Final = {224: "enet_b0_8_best_vgaf", 260: "enet_b2_8"}
"""Side of the images that a recogniser of EmotiEffLib is given -> its name."""
T = TypeVar("T")
Reduce: TypeAlias = Callable[[Any, Feed], Any]
"""From a graph, and images and what else it takes, to one of fewer bits."""
FORMS: Final[dict[str, tuple[Bound, Reduce]]] = {
    # Sums come in another order than torch's: 1e-6 is usual, and a near tie may fall either way.
    "float32": (Bound(difference=1e-4, agreement=0.98), lambda graph, _: graph),
    "half": (Bound(difference=0.02, agreement=0.98), onnx.halved),
    "int8": (Bound(difference=0.25, agreement=0.95), onnx.quantised),
}
"""Arithmetic -> what it may lose, and how it is come by."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        suffix: of its name. what: in words. engine: what runs it. packages: that it needs. build: translates a traced
            model. content: the file's, of that and of what the model is. runner: runs a file's contents.
    """

    suffix: str
    what: str
    engine: str
    packages: tuple[str, ...]
    build: Callable[[ExportedProgram, Sequence[str]], Any]
    content: Callable[[Any, dict[str, Any]], bytes]
    runner: Callable[[bytes], Answer]


KINDS: Final[dict[str, Kind]] = {
    "onnx": Kind(
        ".onnx", f"ONNX, opset {onnx.OPSET}", "onnxruntime", onnx.PACKAGES, onnx.build, onnx.content, onnx.runner
    ),
    "torch": Kind(
        ".pt2", "torch.export archive", "archive", (), lambda program, _: program,
        torch_archive.content, torch_archive.runner,
    ),
}  # fmt: skip


def export_model(
    model: Path, out: Path, *, to: str, pixels: str = "float", form: str = "float32", data: DomainSpec | None = None
) -> Exported:
    """Write a model for elsewhere, once it is seen to say what the model says.

    Args:
        model: a run folder, or the `model/` in it. out: what is written; nothing may stand there.
        to: one of `KINDS`, or `HUB`.
        form: its arithmetic, one of `FORMS`; only ONNX has others than float32.
        pixels: what RGB it takes, one of `PIXELS`. data: images that it is compared on; None = generated faces.

    Raises:
        UserInputError: for a name that is none of these, if a package is missing, the model cannot be used or predicts
            from more than images, `data` cannot be read, the export says something else than the model, or the file
            cannot be written.
    """
    bound, reduce = _chosen(form, FORMS, "form")
    if form != "float32" and to != "onnx":
        raise UserInputError(f"no {form} for --to {to}", where=f"--{form}", fix="leave it out, or take --to onnx")
    if to == HUB:
        return export_hub(model, out, data)
    kind = _chosen(to, KINDS, "--to", (HUB,))
    taken = _chosen(pixels, {name: name for name in PIXELS}, "--input")
    onnx.needed(kind.packages, where=f"--to {to}")
    refuse_taken(out, kind.suffix)
    folder, predictor = find_model(model), load_predictor(model, device="cpu", full_precision=True)
    record = predictor.record
    if any(isinstance(module, FrozenGraph) for module in predictor.modules()):
        what = "the network is an ONNX graph that is run as it is, and cannot be exported once more"
        raise UserInputError(what, where=str(model), fix="take the file that --init was given")
    if taken == "emotiefflib":
        _refuse_unlike(predictor, to)
    sample = read_sample(predictor, data, 2 * IMAGES)
    compared, others = sample.part(slice(IMAGES)), sample.part(slice(IMAGES, None))
    about = {**describe(record, folder), "input": SCALES[taken], "arithmetic": form}
    if predictor.needed:
        about |= {"units": list(predictor.units), "au_threshold": predictor.data_settings.au_threshold}
    begin = time.perf_counter()
    graph = kind.build(trace(predictor, taken), predictor.needed)
    built = reduce(graph, (others if len(others) else compared).feed(taken))
    draft = kind.content(built, about)
    seconds = time.perf_counter() - begin
    measured = check(predictor, compared, taken, {kind.engine: kind.runner(draft)})
    refuse_worse(measured, bound, form)
    # Written a second time, for the metadata now say what the comparison of the first found; the graph is the same.
    content = kind.content(built, {**about, "difference": measured.difference, "compared": measured.n})
    with whole(out) as file:
        file.write(content)
    values = {"path": str(out), "resize": record.images.resize, "pixels": taken, "extras": predictor.needed,
        "recogniser": RECOGNISERS.get(record.images.size)}  # fmt: skip
    usage = render(f"{'emotiefflib' if taken == 'emotiefflib' else to}.py", **values).splitlines()
    what = f"{form} {kind.what}, takes {SCALES[taken]}"
    return Exported(out, what, len(content), seconds, measured, tuple(usage))


def _refuse_unlike(predictor: Predictor, to: str) -> None:
    """Make sure that EmotiEffLib's recogniser can use a model.

    Raises:
        UserInputError: if not.
    """
    size, others = predictor.record.images.size, [name for name in predictor.classes if name not in EMOTIEFFLIB]
    if to != "onnx":
        raise UserInputError(f"EmotiEffLib reads no --to {to}", where="--input", fix="take --to onnx")
    if predictor.needed:
        raise UserInputError("EmotiEffLib gives no action units", where="--input", fix="leave --input out")
    if others:
        raise UserInputError(f"EmotiEffLib has no class {', '.join(others)}", where="--input", fix="leave --input out")
    if size not in RECOGNISERS:
        fix = f"train with data.size={' or '.join(map(str, RECOGNISERS))}, or leave --input out"
        raise UserInputError(f"EmotiEffLib gives no images of {size} px", where="--input", fix=fix)


def _chosen(name: str, known: dict[str, T], where: str, others: Collection[str] = ()) -> T:
    if name not in known:
        raise UserInputError(f"unknown value {name!r}", where=where, fix=did_you_mean(name, {*known, *others}))
    return known[name]
