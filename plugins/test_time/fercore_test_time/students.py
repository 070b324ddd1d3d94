"""A second network beside the one that answers: the student of a mean teacher, or the source as an anchor."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fercore.models import Model


def copy_of(model: Model) -> Model:
    """Return a copy of the network without the parts that plugins keep."""
    parts, model.parts = model.parts, nn.ModuleDict()
    try:
        return copy.deepcopy(model)
    finally:
        model.parts = parts


def state_of(model: Model) -> dict[str, Tensor]:
    """Return the network's weights and buffers by name, without those of parts."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("parts.")}


def weights_of(model: Model) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the network's parameters by name, without those of parts."""
    for name, parameter in model.named_parameters():
        if not name.startswith("parts."):
            yield name, parameter


@torch.no_grad()
def follow(teacher: Model, student: Model, keep: float) -> None:
    """Move the teacher's weights towards the student's: keep teacher + (1 - keep) student."""
    own = dict(weights_of(teacher))
    for name, weight in weights_of(student):
        own[name].mul_(keep).add_(weight, alpha=1 - keep)


def probabilities(model: Model, images: Tensor) -> Tensor:
    """Return the mean over branches f[B,K] of what a network says of images, in the mode and norms it is in."""
    logits = model(images).logits.values()
    return torch.stack([z.softmax(1) for z in logits]).mean(0)
