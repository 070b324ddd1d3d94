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


def divide_backbone(settings: ModelSettings, *, reduction: int) -> Divided:
    """Build a backbone cut after its last stage of total stride `reduction`, and the stages behind it.

    One after the other they are the whole backbone to the bit, so that a method which puts something of its own between
    them starts from what the backbone has learnt.

    Args:
        settings: which timm model, its arguments and weights.
        reduction: total stride of the map, e.g. 8 for the first three stages of a ResNet.

    Raises:
        UserInputError: as `build_trunk`, and for a backbone whose later stages take more than that map.
    """
    cut = cut_backbone(settings, reduction=reduction)
    later = _behind(cut, settings)
    size = max(32, 4 * reduction)
    images = torch.zeros(1, 3, size, size)
    training = cut.whole.training
    whole, trunk = cut.whole.eval(), cut.trunk.module.eval()
    with torch.no_grad():
        expected, found = whole(images), later.eval()(trunk(images))
    if expected.ndim != 2 or not torch.equal(expected, found):
        raise _cannot(settings, reduction, "they do not yield its features alone")
    trunk.train(training)
    kept = replace(cut.trunk, module=frozen(cut.trunk.module, settings))
    return Divided(kept, frozen(later.train(training), settings), expected.shape[1])


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


def _behind(cut: Cut, settings: ModelSettings) -> nn.Module:
    found = []
    for training in (False, True):
        tracer = _Tracer(cut.stage)
        try:
            graph = tracer.trace(cut.whole.train(training))
        except Exception as error:  # torch.fx raises what the traced code does
            raise _cannot(settings, cut.trunk.reduction, f"{type(error).__name__} in tracing them") from error
        later = fx.GraphModule(cut.whole, graph, "LaterStages")
        if not _shorten(later, cut.stage):
            raise _cannot(settings, cut.trunk.reduction, "they need more than the map of that stride")
        found.append(later)
    if found[0].code != found[1].code:
        raise _cannot(settings, cut.trunk.reduction, "they are others in training than in evaluation")
    return found[1]


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


def _cannot(settings: ModelSettings, reduction: int, why: str) -> UserInputError:
    what = f"the stages of backbone {settings.backbone!r} behind stride {reduction} cannot be had by themselves: {why}"
    return UserInputError(what, where="model.backbone", fix="take a convolutional backbone such as resnet18")
