"""Backbones from timm, whole or cut at a stride, with weights from the hub or a local file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fercore.config import ModelSettings
from fercore.errors import UserInputError, did_you_mean
from fercore.models.architectures import ARCHITECTURES, Architecture
from fercore.models.foreign import weights_file
from fercore.models.hub import quick_hub
from fercore.models.packaged import PREFIX, packaged, packaged_file
from fercore.models.weights import EXISTING, fit_weights, read_weights, same_shapes

log = logging.getLogger(__name__)
Statistics = tuple[float, float, float]
RANDOM = "start from random ones: --set model.weights=none, or --preset small"
TAKE_ANOTHER = "take a convolutional backbone such as resnet18"


@dataclass(frozen=True)
class Backbone:
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


def look_for_weights(settings: ModelSettings) -> None:
    """Make sure that a backbone's weights can be had, before anything that takes long; the hub's are fetched.

    Raises:
        UserInputError: if they are not there; says how to do without, or where to get them.
    """
    if settings.weights == "timm":
        _create(settings)
    elif settings.weights != "none":
        weights_file(_file_of(settings), fix=EXISTING)


def _file_of(settings: ModelSettings) -> Path:
    """Return the file that `model.weights` names, its own or a package's.

    Raises:
        UserInputError: if a package's weights cannot be had, or are of another backbone.
    """
    if not settings.weights.startswith(PREFIX):
        return Path(os.path.expanduser(settings.weights))
    name = settings.weights.removeprefix(PREFIX)
    wanted = packaged(name).backbone
    if settings.backbone != wanted:
        what = f"weights {name!r} are of backbone {wanted}, not {settings.backbone}"
        raise UserInputError(what, where="model.weights", fix=f"--set model.backbone={wanted}")
    return packaged_file(name)


def build_backbone(settings: ModelSettings) -> Backbone:
    """Build a whole backbone that pools to a vector.

    Raises:
        UserInputError: for an unknown model, wrong arguments, or weights that do not fit.
    """
    whole = _create(settings)
    mean, std = _statistics(whole)
    shape = _shape_of_output(whole, settings, whole.pretrained_cfg)
    if len(shape) != 1:
        what = f"backbone {settings.backbone!r} yields {shape} for an image, not a vector"
        raise UserInputError(what, where="model.backbone_args", fix="leave out global_pool, or take another backbone")
    return Backbone(frozen(whole, settings), shape[0], 0, mean, std)


def build_trunk(settings: ModelSettings, *, reduction: int) -> Backbone:
    """Build a backbone cut after its last stage of total stride `reduction`; later stages do not exist.

    Args:
        settings: which timm model, its arguments and weights.
        reduction: total stride of the map, e.g. 8 for the first three stages of a ResNet.

    Raises:
        UserInputError: for an unknown model, a stride it does not have, or weights that do not fit.
    """
    cut = cut_backbone(settings, reduction=reduction)
    if settings.weights not in ("none", "timm"):
        log.warning("weights of %s: tensors of layers behind stride %d are not used", settings.weights, reduction)
    return replace(cut.trunk, module=frozen(cut.trunk.module, settings))


@dataclass(frozen=True)
class Cut:
    """A backbone beside its first stages. Attributes: whole. trunk. stage: name of its module that yields their map."""

    whole: nn.Module
    trunk: Backbone
    stage: str


def cut_backbone(settings: ModelSettings, *, reduction: int) -> Cut:
    """Build a whole backbone, and beside it what yields its last map of a total stride.

    Raises:
        UserInputError: as `build_trunk`.
    """
    if settings.backbone in ARCHITECTURES:
        what = f"backbone {settings.backbone!r} yields no feature maps, and this method cuts it at stride {reduction}"
        raise UserInputError(what, where="model.backbone", fix="take a method with a whole backbone, such as dann")
    # The whole network first: weights files name its layers, and its statistics stand in its configuration alone.
    whole = _create(settings)
    mean, std = _statistics(whole)
    # Built without indices to learn which strides there are; it is dropped.
    stages = _extractor(settings, None).feature_info.reduction()
    if reduction not in stages:
        fix = f"its stages have strides {sorted(set(stages))}"
        raise UserInputError(f"backbone {settings.backbone!r} has no stage of stride {reduction}", fix=fix)
    # The last of the stages with this stride: several may share one.
    extractor = _extractor(settings, (len(stages) - 1 - stages[::-1].index(reduction),))
    _prune(extractor)
    _copy_weights(whole.state_dict(), extractor)
    trunk = LastMap(extractor)
    shape = _shape_of_output(trunk, settings, whole.pretrained_cfg)
    channels = extractor.feature_info.channels()[-1]
    if len(shape) != 3 or shape[0] != channels:
        what = f"backbone {settings.backbone!r} yields {shape} for an image, not a map of {channels} channels"
        raise UserInputError(what, where="model.backbone", fix=TAKE_ANOTHER)
    stage = extractor.feature_info.module_name()[-1]
    return Cut(whole, Backbone(trunk, channels, reduction, mean, std), stage)


@torch.no_grad()
def _shape_of_output(module: nn.Module, settings: ModelSettings, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of what a network yields for one image of the size it was made for.

    timm's `num_features` is the width before the last layers of some families, such as MobileNetV3's. The network is in
    evaluation mode, so its batch statistics stay, and no random generator is moved.

    Raises:
        UserInputError: if it does not take such an image.
    """
    given = settings.arguments.get("img_size", config["input_size"][-1])
    height, width = given if isinstance(given, list | tuple) else (given, given)
    training = module.training
    module.eval()
    try:
        # Some networks draw in evaluation mode too; a draw here would shift all later ones of the run.
        with torch.random.fork_rng(devices=[]):
            output = module(torch.zeros(1, 3, height, width))
        return tuple(output.shape[1:])
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0][:200]}"
        what = f"backbone {settings.backbone!r} does not take a {width}x{height} RGB image: {reason}"
        raise UserInputError(what, where="model.backbone_args", fix="change them, or take another backbone") from error
    finally:
        module.train(training)


def _create(settings: ModelSettings) -> Any:
    import timm

    name = settings.backbone
    if name in ARCHITECTURES:
        return _create_other(settings, ARCHITECTURES[name])
    if name not in timm.list_models():
        fix = did_you_mean(name, timm.list_models())
        raise UserInputError(f"unknown backbone {name!r}", where="model.backbone", fix=fix)
    for other in set(settings.backbone_args) - {*timm.list_models(), *ARCHITECTURES}:
        fix = did_you_mean(other, timm.list_models())
        raise UserInputError(f"arguments for unknown backbone {other!r}", where="model.backbone_args", fix=fix)
    hub = settings.weights == "timm"
    published = timm.get_pretrained_cfg(name) if hub else None
    if hub and not (published and published.has_weights):
        fix = f"give a file, or {RANDOM}"
        raise UserInputError(f"there are no published weights of {name!r}", where="model.weights=timm", fix=fix)
    try:
        with quick_hub() if hub else nullcontext():
            # No classifier unless the user's arguments ask for one.
            network = timm.create_model(name, pretrained=hub, **{"num_classes": 0, **settings.arguments})
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if published and isinstance(error, OSError):
            what, where = f"cannot fetch weights of {name!r} ({type(error).__name__})", "model.weights=timm"
            at = f"{published.hf_hub_id} on the Hugging Face hub" if published.hf_hub_id else published.url
            fix = f"download those of {at} elsewhere and set model.weights=/path/to/model.safetensors, or {RANDOM}"
        else:
            what, where = f"backbone {name!r} cannot be built: {reason}", "model.backbone_args"
            fix = f"--set model.backbone_args.{name}={{}} takes timm's defaults" if settings.arguments else TAKE_ANOTHER
        raise UserInputError(what, where=where, fix=fix) from error
    if settings.weights not in ("none", "timm"):
        path = _file_of(settings)
        tensors = read_weights(path)
        hint = partial(_hint_of_own_shapes, settings, tensors)
        network.load_state_dict(fit_weights(tensors, network.state_dict(), where=str(path), hint=hint))
    return network


def _create_other(settings: ModelSettings, architecture: Architecture) -> Any:
    """Build a network that is not timm's.

    Raises:
        UserInputError: if it cannot be built, or the weights do not fit.
    """
    if settings.weights == "timm":
        what = f"there are no published weights of {settings.backbone!r}"
        raise UserInputError(what, where="model.weights=timm", fix=f"give a file, or {RANDOM}")
    try:
        network = architecture.build(settings.arguments)
    except UserInputError:
        raise
    except Exception as error:
        what = f"backbone {settings.backbone!r} cannot be built: {type(error).__name__}: {error}"
        raise UserInputError(what, where="model.backbone_args", fix=TAKE_ANOTHER) from error
    if settings.weights != "none":
        path = _file_of(settings)
        network.load_state_dict(fit_weights(architecture.tensors(path), network.state_dict(), where=str(path)))
    return network


def _hint_of_own_shapes(settings: ModelSettings, tensors: Mapping[str, Tensor]) -> str:
    """Advise to leave the arguments out, where that is all that keeps the weights from fitting."""
    if not settings.arguments:
        return ""
    import timm

    # Shapes alone: no memory, no random numbers.
    with torch.device("meta"):
        own = timm.create_model(settings.backbone, num_classes=0).state_dict()
    if not same_shapes(tensors, own):
        return ""
    return f"; or --set model.backbone_args.{settings.backbone}={{}} for timm's own shapes, which they fit"


def _extractor(settings: ModelSettings, out_indices: tuple[int, ...] | None) -> Any:
    import timm

    chosen: dict[str, Any] = {} if out_indices is None else {"out_indices": out_indices}
    try:
        return timm.create_model(settings.backbone, features_only=True, **chosen, **settings.arguments)
    except Exception as error:
        what = f"backbone {settings.backbone!r} yields no feature maps ({error})"
        raise UserInputError(what, fix=TAKE_ANOTHER) from None


def _prune(extractor: Any) -> None:
    """Drop the blocks behind the last wanted map; some extractors of timm keep and compute them all."""
    container, _, index = extractor.feature_info.module_name()[-1].partition(".")
    blocks = getattr(extractor, container, None)
    if isinstance(blocks, nn.Sequential) and index.isdigit():
        setattr(extractor, container, blocks[: int(index) + 1])


def _copy_weights(whole: Mapping[str, Tensor], part: nn.Module) -> None:
    # timm's extractors write dots in module names as underscores: layer1.0 and layer1_0 are one.
    by_name = {key.replace(".", "_"): tensor for key, tensor in whole.items()}
    part.load_state_dict({key: by_name[key.replace(".", "_")] for key in part.state_dict()})


def _statistics(network: Any) -> tuple[Statistics, Statistics]:
    config = network.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def frozen(module: nn.Module, settings: ModelSettings) -> nn.Module:
    """Return a module as `model.freeze` has it."""
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
