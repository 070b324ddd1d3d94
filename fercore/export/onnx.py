"""A model as an ONNX file for onnxruntime and its like: input "input" [batch,3,S,S], output "output" [batch,K].

A model that reads action units has them as further inputs, "au" and "au_code" [batch,A].
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from torch.export import ExportedProgram

from fercore.errors import UserInputError
from fercore.export.check import Answer, Feed
from fercore.export.graph import INPUT, OUTPUT
from fercore.runs.folder import installed_version

OPSET: Final = 20
PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
_aten: Final = torch.ops.aten
# ONNX sorts by TopK, which is stable: of equal values the first comes first.
DECOMPOSED: Final[Mapping[Any, Any]] = {
    _aten.sort.stable: lambda x, *, stable, dim=-1, descending=False: _aten.sort.default(x, dim, descending)
}


def build(program: ExportedProgram, extras: Sequence[str]) -> Any:
    """Return a traced model as an `onnx.ModelProto`; names of its nodes tell nothing of this machine."""
    with quiet():
        translated = torch.onnx.export(
            program.run_decompositions(dict(DECOMPOSED)),
            dynamo=True, input_names=[INPUT, *extras], output_names=[OUTPUT], opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert translated is not None
    # The exporter notes where in the source each node comes from, with paths of this machine.
    for node in translated.model.graph:
        node.metadata_props.clear()
    graph = translated.model_proto
    graph.producer_name, graph.producer_version = "fercore", installed_version("fercore")
    return graph


def halved(graph: Any, _: Feed) -> Any:
    """Return a float32 graph in float16; what comes in and goes out stays as it was."""
    import onnx_ir
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    # onnxruntime 1.32 crashes on the CPU where Gelu is of float16.
    with quiet():
        reduced = convert_float_to_float16(graph, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Gelu"])
    ordered = onnx_ir.from_proto(reduced)  # the conversion leaves casts behind the nodes that read them
    ordered.graph.sort()
    return onnx_ir.to_proto(ordered)


def quantised(graph: Any, feed: Feed) -> Any:
    """Return a float32 graph whose convolutions and products are of int8 (static, a scale for each channel of weights).

    Args:
        feed: images and what else the graph takes: activations are scaled by their extremes on these.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            n = len(feed[INPUT])
            # Sixteen at a time: all activations of a batch are in memory at once.
            self._left = iter(np.array_split(np.arange(n), max(1, n // 16)))

        def get_next(self) -> Feed | None:
            part = next(self._left, None)
            return None if part is None else {name: values[part] for name, values in feed.items()}

    # onnxruntime's quantiser writes to a path only.
    with TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(graph, path, Reader(), per_channel=True, op_types_to_quantize=["Conv", "Gemm", "MatMul"])
        return onnx.load(path)


def content(graph: Any, about: dict[str, Any]) -> bytes:
    """Return the file, with what the model is in its metadata: text as it is, all else as JSON."""
    # A graph is written twice (`export_model`), and names may stand there once.
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

    def run(feed: Feed) -> np.ndarray:
        (probs,) = ready.run([OUTPUT], feed)
        return np.asarray(probs)

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
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
