"""A backbone in two: a trunk up to a stride, and the stages behind it, with the weights that it came with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from fercore.config import ModelSettings
from fercore.errors import UserInputError
from fercore.models.backbones import Backbone, Cut, cut_backbone, frozen


@dataclass(frozen=True)
class Divided:
    """A backbone that was divided.

    Attributes:
        trunk: the first stages, as `build_trunk` returns them. later: from their map f[B,C,h,w] to the whole
            backbone's pooled features f[B,D]. width: D.
    """

    trunk: Backbone
    later: nn.Module
    width: int


def divide_backbone(settings: ModelSettings, *, reduction: int, otherwise: str = "") -> Divided:
    """Build a backbone cut after its last stage of total stride `reduction`, and the stages behind it.

    One after the other they are the whole backbone to the bit, so that a method which puts something of its own between
    them starts from what the backbone has learnt.

    Args:
        settings: which timm model, its arguments and weights.
        reduction: total stride of the map, e.g. 8 for the first three stages of a ResNet.
        otherwise: how the method does without, for the error of a backbone that cannot be divided.

    Raises:
        UserInputError: as `build_trunk`, and for a backbone whose later stages take more than that map.
    """
    cut = cut_backbone(settings, reduction=reduction)
    try:
        later, width = _behind(cut)
    except _CannotError as error:
        what = f"the stages of backbone {settings.backbone!r} behind stride {reduction} cannot be had alone: {error}"
        fix = otherwise or "take a convolutional backbone such as resnet18"
        raise UserInputError(what, where="model.backbone", fix=fix) from error
    kept = replace(cut.trunk, module=frozen(cut.trunk.module, settings))
    return Divided(kept, frozen(later, settings), width)


class _CannotError(Exception):
    """A backbone cannot be divided; says why."""


class _Tracer(fx.Tracer):
    """Traces a network down to layers; what is cut off is one of them."""

    def __init__(self, cut: str) -> None:
        from timm.models import get_notrace_functions, get_notrace_modules

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))  # type: ignore[no-untyped-call]
        self.cut, self.opaque = cut, tuple(get_notrace_modules())  # type: ignore[no-untyped-call]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # timm's layers have branches that depend on the mode, which a trace would fix.
        layer = m.__module__.startswith("timm.layers") or isinstance(m, self.opaque)
        return module_qualified_name == self.cut or layer or super().is_leaf_module(m, module_qualified_name)


def _behind(cut: Cut) -> tuple[nn.Module, int]:
    """Return the stages behind a cut and the width of their features, tried on an image of zeros.

    Raises:
        _CannotError: where there are none that yield what the whole backbone does.
    """
    training = cut.whole.training
    found = [_traced(cut, training=each) for each in (False, True)]
    if found[0].code != found[1].code:
        raise _CannotError("they are others in training than in evaluation")
    later, trunk = found[1], cut.trunk.module
    size = max(32, 4 * cut.trunk.reduction)
    images = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        expected, given = cut.whole.eval()(images), later.eval()(trunk.eval()(images))
    if expected.ndim != 2 or not torch.equal(expected, given):
        raise _CannotError("they do not yield its features")
    for module in (trunk, later):
        module.train(training)
    return later, expected.shape[1]


def _traced(cut: Cut, *, training: bool) -> fx.GraphModule:
    try:
        graph = _Tracer(cut.stage).trace(cut.whole.train(training))
    except Exception as error:  # torch.fx raises what the traced code does
        raise _CannotError(f"{type(error).__name__} in tracing them") from error
    later = fx.GraphModule(cut.whole, graph, "LaterStages")
    if not _shorten(later, cut.stage):
        raise _CannotError("they need more than the map of that stride")
    return later


def _shorten(later: fx.GraphModule, stage: str) -> bool:
    """Have a traced network begin behind the output of one of its modules, or say that it looks further back."""
    graph = later.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    at = [node for node in graph.nodes if node.op == "call_module" and node.target == stage]
    if len(at) != 1:
        return False
    with graph.inserting_before(at[0]):
        maps = graph.placeholder("maps")
    at[0].replace_all_uses_with(maps)
    graph.eliminate_dead_code()
    if images.users:
        return False
    graph.erase_node(images)
    later.recompile()
    later.delete_all_unused_submodules()
    return True
