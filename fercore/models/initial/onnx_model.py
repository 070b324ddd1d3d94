"""ONNX classifiers turned into torch networks by onnx2torch, without their last layer, or else run as they are."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from fercore.errors import UserInputError, reason_of
from fercore.files import read_bytes
from fercore.models.initial import frozen_graph
from fercore.models.initial.foreign_model import ForeignModel
from fercore.models.weights import read_weights

INSTALL = 'pip install "fercore[onnx]"'
MOST = 1 << 30
"""Bytes of a graph, unpacked, that is built."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE = 256
"""Numbers of a constant above which it is a weight, and is kept apart from the graph."""


class Converted(nn.Module):
    """A converted graph up to its last linear layer: float[B,3,H,W] -> float[B,D]."""

    def __init__(self, graph: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.graph, self.pretrained_cfg = graph, config

    def forward(self, images: Tensor) -> Tensor:
        """Return what the last layer would get."""
        features: Tensor = self.graph(images)
        return features.flatten(1)


class NotConverted(UserInputError):
    """A graph that onnx2torch does not know, or that ends in no linear layer."""


def read(path: Path) -> ForeignModel:
    """Look at an ONNX file; images are taken as normalised with ImageNet's mean and std, for the file does not say.

    A graph that cannot be turned into a torch network is run as it is: see `fercore.models.initial.frozen_graph`.

    Raises:
        UserInputError: for a damaged file, or a graph that cannot be run either.
    """
    data = read_bytes(path)
    model = _parsed(data, str(path))
    side = _side(model, str(path))
    try:
        _, head = _converted(model, str(path))
    except NotConverted as error:
        names = _names(model)
        return frozen_graph.read(path, data, error.what, size=side, names=names, statistics=IMAGENET)
    arguments = {"graph": _packed(model), "size": side}
    weight = head.weight.detach().clone()
    bias = None if head.bias is None else head.bias.detach().clone()
    return ForeignModel("ONNX graph", path, "onnx", weight, bias, side, *IMAGENET, _names(model), arguments)


def build(arguments: Mapping[str, Any]) -> nn.Module:
    """Build the network of a packed graph; its weights are zeros.

    Raises:
        UserInputError: for a graph that cannot be read.
    """
    where = "model.backbone_args.onnx"
    try:
        packed = base64.b64decode(str(arguments.get("graph", "")), validate=True)
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(packed, MOST)
        if unpacking.unconsumed_tail or not data:
            raise ValueError("it is empty or too long")
    except (ValueError, zlib.error) as error:
        raise UserInputError(f"cannot read the graph: {error}", where=where, fix="give --init MODEL.onnx") from None
    graph, _ = _converted(_parsed(data, where), where)
    side = int(arguments.get("size", 224))
    return Converted(graph, {"input_size": (3, side, side), "mean": IMAGENET[0], "std": IMAGENET[1]})


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state of a network of `build`, from an ONNX file or a run's."""
    if path.suffix.lower() != ".onnx":
        return read_weights(path)
    graph, _ = _converted(_parsed(read_bytes(path), str(path)), str(path))
    return {f"graph.{name}": tensor for name, tensor in graph.state_dict().items()}


def _parsed(data: bytes, where: str) -> Any:
    try:
        import onnx
    except ImportError:
        raise UserInputError("onnx is not installed", where=where, fix=INSTALL) from None
    try:
        model = onnx.load(io.BytesIO(data), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have errors of their own
        what = f"cannot read ONNX file: {(reason_of(error).strip() or 'damaged').splitlines()[0]}"
        raise UserInputError(what, where=where, fix="export it again, weights inside the file") from None
    return model


def _side(model: Any, where: str) -> int:
    """Return the side of the images that a graph takes; 224 where it takes any.

    Raises:
        UserInputError: if it takes no RGB images.
    """
    known = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in known]
    shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] not in (0, 3) or shape[2] != shape[3]:
        what = f"the graph takes {shape or f'{len(inputs)} inputs'}, not images [B,3,S,S]"
        raise UserInputError(what, where=where, fix="export the classifier alone, for square RGB images")
    return int(shape[2]) or 224


def _names(model: Any) -> tuple[str, ...] | None:
    """Return class names where the file's metadata has them, as `fercore export` writes them."""
    values = {item.key: item.value for item in model.metadata_props}
    given = values.get("classes") or values.get("fercore.classes")
    return tuple(name.strip(" []\"'") for name in given.split(",")) if given else None


def _converted(model: Any, where: str) -> tuple[fx.GraphModule, nn.Linear]:
    """Return a graph that ends before its last linear layer, and that layer.

    Raises:
        NotConverted: naming an operator that is not known, or what it ends in. UserInputError: without onnx2torch.
    """
    try:
        from onnx2torch import convert
    except ImportError:
        raise UserInputError("onnx2torch is not installed", where=where, fix=INSTALL) from None
    try:
        graph: fx.GraphModule = convert(model)
    except NotImplementedError as error:
        what = f"it has an operator that is not converted: {_operator(error)}"
        raise NotConverted(what, where=where, fix="give the model's weights") from None
    except Exception as error:
        what = f"it cannot be converted: {(reason_of(error).strip() or type(error).__name__).splitlines()[0]}"
        raise NotConverted(what, where=where, fix="give the model's weights") from None
    last = next(node for node in graph.graph.nodes if node.op == "output")
    node = last.args[0]
    node = node[0] if isinstance(node, list | tuple) else node
    modules = dict(graph.named_modules())
    while node.op == "call_module" and not isinstance(modules[node.target], nn.Linear):
        name = type(modules[node.target]).__name__
        if "Softmax" not in name and "Identity" not in name and "Dropout" not in name:
            break
        node = node.args[0]
    layer = modules.get(node.target) if node.op == "call_module" else None
    if not isinstance(layer, nn.Linear):
        what = f"it ends in {node.name}, not in a linear layer, so that it has no head to take over"
        raise NotConverted(what, where=where, fix="give the model's weights")
    last.args = (node.args[0],)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph, layer


def _operator(error: NotImplementedError) -> str:
    text = str(error)
    _, given, rest = text.partition("operation_type='")
    return rest.partition("'")[0] if given else text.splitlines()[0][:120]


def _packed(model: Any) -> str:
    """Return a graph as text, its large constants zeroed: what builds the network, without what it has learnt."""
    import onnx
    from onnx import numpy_helper

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for constant in bare.graph.initializer:
        array = numpy_helper.to_array(constant)
        if array.size > LARGE and array.dtype.kind == "f":
            constant.CopyFrom(numpy_helper.from_array(np.zeros_like(array), constant.name))
    return base64.b64encode(zlib.compress(bare.SerializeToString(), 9)).decode()
