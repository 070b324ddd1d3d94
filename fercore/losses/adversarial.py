"""Domain-adversarial alignment by gradient reversal (Ganin et al., JMLR 2016; LA-CMFER Table 3's "Adv variant")."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.losses.consistency import entropy


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


def domain_adversarial(
    discriminator: nn.Module,
    source: Tensor,
    target: Tensor,
    strength: float = 1.0,
    *,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of telling source from target features, with the features' gradient reversed.

    Both sides pass the discriminator together: batch normalisation of each alone would take away what tells them apart.

    Args:
        discriminator: f[n,D] -> f[n,1] logit of being a source, or f[n,G] of G discriminators, whose losses are added.
        source: f[B,D]. target: f[Bt,D].
        strength: factor of the reversed gradient.
        source_weights: f[B], target_weights: f[Bt]; all of them sum to 1. None = 1/(2B), 1/(2Bt), so that both sides
            count alike whatever their sizes.

    Returns:
        Scalar.
    """
    logits = discriminator(reverse_gradient(torch.cat([source, target]), strength))
    return domain_cross_entropy(logits, len(source), source_weights=source_weights, target_weights=target_weights)


def domain_cross_entropy(
    logits: Tensor, sources: int, *, source_weights: Tensor | None = None, target_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits f[B+Bt,G] of being a source, as the first B are; weights as in `domain_adversarial`."""
    is_source = torch.zeros_like(logits)
    is_source[:sources] = 1
    values = F.binary_cross_entropy_with_logits(logits, is_source, reduction="none").sum(1)
    weights = [
        values.new_full((count,), 0.5 / count) if given is None else given
        for count, given in ((sources, source_weights), (len(logits) - sources, target_weights))
    ]
    return torch.cat(weights) @ values


def entropy_weights(probs: Tensor) -> Tensor:
    """How much each sample counts for the adversary: 1 + e^-H of its f[B,K] (CDAN+E, Long et al. 2018, Eq 8); f[B]."""
    return 1 + (-entropy(probs)).exp()


def feature_class_product(features: Tensor, probs: Tensor) -> Tensor:
    """Outer product of features f[B,D] and probabilities f[B,K], flat (CDAN, Long et al. 2018, Eq 5): f[B,K*D]."""
    return (probs.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def margin_disparity(
    source: Tensor,
    source_adversary: Tensor,
    target: Tensor,
    target_adversary: Tensor,
    margin: float,
    source_weights: Tensor | None = None,
) -> Tensor:
    """What an adversarial head is trained by to agree with the head on the source and to differ on the target.

    margin * CE(z'_s, argmax z_s) + mean -log(1 - p'_t[argmax z_t]) (MDD, Zhang et al., ICML 2019, Eqs 28-30).

    Args:
        source: f[B,K], target: f[M,K]: logits of the head, of which the classes are taken.
        source_adversary: f[B,K], target_adversary: f[M,K]: logits of the adversarial head. margin: gamma.
        source_weights: f[B], sum to 1; None = uniform.

    Returns:
        Scalar.
    """
    agree = F.cross_entropy(source_adversary, source.argmax(-1), reduction="none")
    other = target_adversary.softmax(-1).gather(1, target.argmax(-1, keepdim=True))
    left = agree.mean() if source_weights is None else source_weights @ agree
    # A floor under 1 - p: where the adversary agrees for certain the logarithm has no gradient to give.
    return margin * left - torch.log((1 - other).clamp_min(1e-6)).mean()
