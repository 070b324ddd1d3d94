"""A model as an ONNX file for onnxruntime and its like: input "input" [batch,3,S,S], output "output" [batch,K]."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.export import ExportedProgram

from fercore.engine.model_folder import find_model
from fercore.errors import UserInputError
from fercore.export.check import FACES, Answer, Bound, Check, check, read_images, refuse_worse
from fercore.export.graph import INPUT, OUTPUT, Pixels, trace
from fercore.export.origin import SCALES, as_strings, describe, render
from fercore.prediction.predictor import load_predictor
from fercore.runs.folder import installed_version
from fercore.writing import refuse_taken, whole

SUFFIX: Final = ".onnx"
OPSET: Final = 20
BOUND: Final = Bound(difference=1e-4, agreement=0.98)
"""Of float32; its sums come in another order than torch's, and 1e-5 is usual. A near tie may fall either way."""
_aten: Final = torch.ops.aten
# ONNX sorts by TopK, which is stable: of equal values the first comes first.
DECOMPOSED: Final[Mapping[Any, Any]] = {
    _aten.sort.stable: lambda x, *, stable, dim=-1, descending=False: _aten.sort.default(x, dim, descending)
}


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: file or folder. what: in words. bytes: its size. seconds: from the model to the graph. check: what was
            measured. usage: lines of Python that run it.
    """

    path: Path
    what: str
    bytes: int
    seconds: float
    check: Check
    usage: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what to tell of it."""
        size = f"{self.bytes:,} bytes, made in {self.seconds:.1f} s"
        return [f"{self.what}, {size}", *self.check.lines(), f"written to {self.path}"]


def export_onnx(model: Path, out: Path, *, pixels: Pixels = "float", data: str = FACES) -> Exported:
    """Write a model as an ONNX file, once it is seen to say what the model says.

    Args:
        model: a run folder, or the `model/` in it. out: a new file. pixels: what the graph takes. data: SPEC of the
            images that are compared.

    Raises:
        UserInputError: if a package is missing, the model cannot be used or predicts from more than images, `data`
            cannot be read, the graph says something else than the model, or the file cannot be written.
    """
    needed("onnx", "onnxscript", "onnxruntime")
    refuse_taken(out, SUFFIX)
    folder, predictor = find_model(model), load_predictor(model, device="cpu", full_precision=True)
    images = read_images(predictor, data)
    begin = time.perf_counter()
    graph = build(trace(predictor, pixels))
    seconds = time.perf_counter() - begin
    record = predictor.record
    found = check(predictor, images, data, pixels, {"onnxruntime": session(graph.SerializeToString())})
    refuse_worse(found, BOUND, "float32")
    about = {**describe(record, folder), "input": SCALES[pixels], "difference": found.difference, "compared": found.n}
    for name, value in as_strings(about).items():
        graph.metadata_props.add(key=name, value=value)
    content = graph.SerializeToString()
    with whole(out) as file:
        file.write(content)
    lines = tuple(render("onnx.py", path=str(out), resize=record.images.resize, pixels=pixels).splitlines())
    what = f"float32 ONNX, opset {OPSET}, takes {SCALES[pixels]}"
    return Exported(out, what, len(content), seconds, found, lines)


def build(program: ExportedProgram) -> Any:
    """Return a traced model as an `onnx.ModelProto`; names of its nodes tell nothing of this machine."""
    with quiet():
        translated = torch.onnx.export(
            program.run_decompositions(dict(DECOMPOSED)),
            dynamo=True, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert translated is not None
    for node in translated.model.graph:
        node.metadata_props.clear()
    graph = translated.model_proto
    graph.producer_name, graph.producer_version = "fercore", installed_version("fercore")
    return graph


def session(content: bytes) -> Answer:
    """Return what runs an ONNX file in onnxruntime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    ready = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        (found,) = ready.run([OUTPUT], {INPUT: images})
        return np.asarray(found)

    return run


def needed(*modules: str) -> None:
    """Make sure that packages of the extra "onnx" are there.

    Raises:
        UserInputError: naming the first that is not.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            what = f"an ONNX file needs the package {module} ({error})"
            raise UserInputError(what, where="--to onnx", fix="pip install 'fercore[onnx]'") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's reports of its progress to itself; what goes wrong is raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
