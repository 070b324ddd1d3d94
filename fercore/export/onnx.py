"""A model as an ONNX file for onnxruntime and its like: input "input" [batch,3,S,S], output "output" [batch,K]."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.export import ExportedProgram

from fercore.errors import UserInputError
from fercore.export.check import Answer
from fercore.export.graph import INPUT, OUTPUT
from fercore.runs.folder import installed_version

OPSET: Final = 20
PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
_aten: Final = torch.ops.aten
# ONNX sorts by TopK, which is stable: of equal values the first comes first.
DECOMPOSED: Final[Mapping[Any, Any]] = {
    _aten.sort.stable: lambda x, *, stable, dim=-1, descending=False: _aten.sort.default(x, dim, descending)
}


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


def content(graph: Any, about: dict[str, Any]) -> bytes:
    """Return the file, with what the model is in its metadata: text as it is, all else as JSON."""
    del graph.metadata_props[:]
    for name, value in about.items():
        graph.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    written: bytes = graph.SerializeToString()
    return written


def runner(file: bytes) -> Answer:
    """Return what runs an ONNX file in onnxruntime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    ready = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        (found,) = ready.run([OUTPUT], {INPUT: images})
        return np.asarray(found)

    return run


def needed(modules: Sequence[str], *, where: str) -> None:
    """Make sure that packages of the extra "onnx" are there.

    Raises:
        UserInputError: naming the first that is not.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            what = f"an ONNX file needs the package {module} ({error})"
            raise UserInputError(what, where=where, fix="pip install 'fercore[onnx]'") from None


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
