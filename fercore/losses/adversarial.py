"""Domain-adversarial alignment by gradient reversal (Ganin et al., JMLR 2016; LA-CMFER Table 3's "Adv variant")."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """Return x unchanged; its gradient is multiplied by -strength."""
    reversed_: Tensor = _Reverse.apply(x, strength)
    return reversed_


def ramp(progress: float, steepness: float = 10.0) -> float:
    """Return 2 / (1 + exp(-steepness * progress)) - 1, which rises from 0 to about 1 as progress goes from 0 to 1."""
    return 2.0 / (1.0 + math.exp(-steepness * progress)) - 1.0


def domain_adversarial(discriminator: nn.Module, source: Tensor, target: Tensor, strength: float = 1.0) -> Tensor:
    """Cross-entropy of telling source from target features, with the features' gradient reversed.

    Args:
        discriminator: f[n,D] -> f[n,1] logit of being a source.
        source: f[B,D]. target: f[Bt,D]; both sides count alike whatever their sizes.
        strength: factor of the reversed gradient.

    Returns:
        Scalar.
    """
    sides = []
    for features, is_source in ((source, 1.0), (target, 0.0)):
        logit = discriminator(reverse_gradient(features, strength)).flatten()
        sides.append(F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, is_source)))
    return (sides[0] + sides[1]) / 2
