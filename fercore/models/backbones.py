"""Backbones from timm, whole or cut at a stride, with weights from the hub or a local file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from fercore.config import ModelSettings
from fercore.errors import UserInputError, did_you_mean
from fercore.models.weights import fit_weights, read_weights

Statistics = tuple[float, float, float]


@dataclass(frozen=True)
class Trunk:
    """A backbone and what it yields.

    Attributes:
        module: float[B,3,H,W] -> map float[B,C,H/r,W/r] of a cut trunk, or vector float[B,C] of a whole backbone.
        channels: C. reduction: r (0 for a vector).
        mean, std: channel statistics the weights were trained with.
    """

    module: nn.Module
    channels: int
    reduction: int
    mean: Statistics
    std: Statistics


class LastMap(nn.Module):
    """The last feature map of a timm feature extractor: float[B,3,H,W] -> float[B,C,H',W']."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        """Return the map of the extractor's only output."""
        maps: list[Tensor] = self.extractor(images)
        return maps[-1]


def build_backbone(settings: ModelSettings) -> Trunk:
    """Build a whole backbone that pools to a vector.

    Raises:
        UserInputError: for an unknown model, wrong arguments, or weights that do not fit.
    """
    whole = _create(settings)
    mean, std = _statistics(whole)
    return Trunk(_frozen(whole, settings), whole.num_features, 0, mean, std)


def build_trunk(settings: ModelSettings, *, reduction: int) -> Trunk:
    """Build a backbone cut after its last stage of total stride `reduction`; later stages do not exist.

    Args:
        settings: which timm model, its arguments and weights.
        reduction: total stride of the map, e.g. 8 for the first three stages of a ResNet.

    Raises:
        UserInputError: for an unknown model, a stride it does not have, or weights that do not fit.
    """
    whole = _create(settings)
    mean, std = _statistics(whole)
    stages = _extractor(settings, None).feature_info.reduction()
    if reduction not in stages:
        fix = f"its stages have strides {sorted(set(stages))}"
        raise UserInputError(f"backbone {settings.backbone!r} has no stage of stride {reduction}", fix=fix)
    extractor = _extractor(settings, (len(stages) - 1 - stages[::-1].index(reduction),))
    _prune(extractor)
    _copy_weights(whole.state_dict(), extractor)
    module = _frozen(LastMap(extractor), settings)
    return Trunk(module, extractor.feature_info.channels()[-1], reduction, mean, std)


def _create(settings: ModelSettings) -> Any:
    name = settings.backbone
    if name not in timm.list_models():
        fix = did_you_mean(name, timm.list_models())
        raise UserInputError(f"unknown backbone {name!r}", where="model.backbone", fix=fix)
    for other in set(settings.backbone_args) - set(timm.list_models()):
        fix = did_you_mean(other, timm.list_models())
        raise UserInputError(f"arguments for unknown backbone {other!r}", where="model.backbone_args", fix=fix)
    hub = settings.weights == "timm"
    try:
        network = timm.create_model(name, pretrained=hub, **{"num_classes": 0, **settings.arguments})
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if hub and isinstance(error, OSError):
            what, where = f"cannot fetch weights of {name!r} ({type(error).__name__})", "model.weights"
            fix = "download them elsewhere and give the file: --set model.weights=/path/to/weights.safetensors"
        else:
            what, where = f"backbone {name!r} cannot be built: {reason}", "model.backbone_args"
            fix = f"--set model.backbone_args.{name}={{}} takes timm's defaults"
        raise UserInputError(what, where=where, fix=fix) from error
    if settings.weights not in ("none", "timm"):
        path = Path(os.path.expanduser(settings.weights))
        hint = f"; or --set model.backbone_args.{name}={{}} for timm's own shapes" if settings.arguments else ""
        network.load_state_dict(fit_weights(read_weights(path), network.state_dict(), where=str(path), hint=hint))
    return network


def _extractor(settings: ModelSettings, out_indices: tuple[int, ...] | None) -> Any:
    chosen: dict[str, Any] = {} if out_indices is None else {"out_indices": out_indices}
    try:
        return timm.create_model(settings.backbone, features_only=True, **chosen, **settings.arguments)
    except Exception as error:
        fix = "take a convolutional backbone such as resnet18"
        raise UserInputError(f"backbone {settings.backbone!r} yields no feature maps ({error})", fix=fix) from None


def _prune(extractor: Any) -> None:
    """Drop the blocks behind the last wanted map; some extractors of timm keep and compute them all."""
    container, _, index = extractor.feature_info.module_name()[-1].partition(".")
    blocks = getattr(extractor, container, None)
    if isinstance(blocks, nn.Sequential) and index.isdigit():
        setattr(extractor, container, blocks[: int(index) + 1])


def _copy_weights(whole: Mapping[str, Tensor], part: nn.Module) -> None:
    by_name = {key.replace(".", "_"): tensor for key, tensor in whole.items()}
    part.load_state_dict({key: by_name[key.replace(".", "_")] for key in part.state_dict()})


def _statistics(network: Any) -> tuple[Statistics, Statistics]:
    config = network.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def _frozen(module: nn.Module, settings: ModelSettings) -> nn.Module:
    if not settings.freeze:
        return module
    return Frozen(module)


class Frozen(nn.Module):
    """A module that keeps its weights and stays in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode, whatever the mode asked for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Run the module as it was loaded."""
        encoded: Tensor = self.module(images)
        return encoded
