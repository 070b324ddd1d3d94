"""Augmented views of images that a stream has brought, milder than the published ones: faces stand upright."""

from __future__ import annotations

import torch
from torch import Tensor

from fercore.plugin import Model, weak_view


def face_views(model: Model, images: Tensor) -> Tensor:
    """Return a view of each image f[B,3,S,S], normalised as the network takes them, of the same type.

    Mirrored, turned by up to 15 degrees, shifted, scaled, other brightness, contrast and saturation, grey at times: the
    weak view "standard" of `fercore.data`. Numbers are drawn from torch's global generator.
    """
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (model.mean, model.std))
    pixels = (images.detach().float() * std + mean).clamp(0, 1)
    draws = torch.rand(len(images), 16).to(images.device)
    return ((weak_view(pixels, draws, "standard") - mean) / std).to(images.dtype)
