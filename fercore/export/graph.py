"""What leaves the machine as one graph: pixels in, class probabilities out, by the method's own hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from fercore.au.table import CODES, SCORES
from fercore.prediction.predictor import Predictor

INPUT, OUTPUT = "input", "output"
Pixels: TypeAlias = Literal["float", "uint8", "emotiefflib"]
PIXELS: Final[tuple[Pixels, ...]] = get_args(Pixels)
"""RGB pixels that a graph takes: float32 in 0..1, uint8 in 0..255, or as EmotiEffLib normalises them."""
EMOTIEFFLIB: Final = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
"""Classes of EmotiEffLib's recogniser, in its order."""
NORMALISED: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that it normalises RGB in 0..1 with."""
_NEVER: Final = -100.0  # logarithm of the share of a class that the model does not know
EXTRAS: Final[dict[str, torch.dtype]] = {SCORES: torch.float32, CODES: torch.uint8}
"""What a graph may take beside pixels, [B,A] each, and of which type."""
TRACED = (FakeTensor, torch.SymInt, torch.SymFloat, torch.SymBool)
_SAMPLES: Final = 3  # of one, or none, the tracer would make a constant


class Graph(nn.Module):
    """The way of an image through a model: normalised, encoded and judged by the hooks of its plugins.

    The network is no submodule: hooks find its tensors as they are, numbers included, where the tracer would put
    placeholders in the place of registered ones. So they become constants of the graph.

    Args:
        predictor: the model. pixels: what comes in.
    """

    def __init__(self, predictor: Predictor, pixels: Pixels) -> None:
        super().__init__()
        self._answer: Callable[[Tensor, Mapping[str, Tensor]], Tensor] = predictor.probabilities
        self._scale = 255.0 if pixels == "uint8" else 1.0
        self._extras = predictor.needed
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in predictor.statistics)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self._classes = predictor.classes
        self._pixels = pixels

    def forward(self, images: Tensor, *extras: Tensor) -> Tensor:
        """Return class probabilities float32[B,K] of RGB images [B,3,S,S], and of what else the model reads of each."""
        pixels = images.to(torch.float32) / self._scale
        if self._pixels == "emotiefflib":
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISED)
            pixels = pixels * std + mean
        beside = dict(zip(self._extras, extras, strict=True))
        with _Folding():
            normalised = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
            probs = self._answer(normalised, beside).to(torch.float32)
            return self._as_logits(probs) if self._pixels == "emotiefflib" else probs

    def _as_logits(self, probs: Tensor) -> Tensor:
        """Return logits of EmotiEffLib's classes, float32[B,8], whose softmax the probabilities are.

        They come out of a linear layer, because its recogniser cuts the last one off and applies it itself.
        """
        weight = torch.tensor([[float(name == own) for own in self._classes] for name in EMOTIEFFLIB])
        bias = torch.tensor([0.0 if name in self._classes else _NEVER for name in EMOTIEFFLIB])
        return torch.nn.functional.linear(probs.clamp_min(1e-30).log(), weight, bias)


def probabilities_of(logits: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return what logits of EmotiEffLib's classes, float[N,8], say of a model's, float[N,K]."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(shares[:, [EMOTIEFFLIB.index(name) for name in classes]])


class _Folding(TorchFunctionMode):
    """Computes at once what does not depend on the images, such as the features of CLIP's class sentences.

    So a hook may ask a buffer for its value, and nothing that is always the same stands in the graph.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, TRACED) for leaf in pytree.tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        with _disable_current_modes():
            return func(*args, **kwargs)


@torch.no_grad()
def trace(predictor: Predictor, pixels: Pixels) -> ExportedProgram:
    """Trace a model whose network is on the CPU; any number of images may come in.

    Raises:
        UserInputError: if it predicts from other things than images and action units.
    """
    predictor.refuse_extras(*EXTRAS)
    size, kind = predictor.record.images.size, torch.uint8 if pixels == "uint8" else torch.float32
    sample, batch = torch.zeros(_SAMPLES, 3, size, size, dtype=kind), Dim("batch")
    extras = [torch.zeros(_SAMPLES, len(predictor.units), dtype=EXTRAS[name]) for name in predictor.needed]
    example = sample, *extras
    shapes: dict[str, Any] = {"images": {0: batch}}
    if extras:
        shapes["extras"] = tuple({0: batch} for _ in extras)
    program = torch.export.export(Graph(predictor, pixels), example, dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:  # they name files of this machine
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    return program
