"""Triplet loss on the unit sphere (AdaFER, Wang et al. 2020, Eq 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from fercore.losses.contrastive import unit

SMOOTHING = 1e-12
"""Added to squared distances under the root, so that the gradient at distance 0 is finite."""


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the Euclidean distances f[B] of the rows of two f[B,D], sqrt(d^2 + 1e-12)."""
    return ((first - second).square().sum(dim=-1) + SMOOTHING).sqrt()


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float | Tensor) -> Tensor:
    """Mean of max(0, margin - (|a - n| - |a - p|)) with Euclidean, not squared, distances (AdaFER Eq 4).

    Args:
        anchor, positive, negative: f[B,D]; they are brought to unit length here, x / max(|x|, 1e-12).
        margin: what the negative must be farther away; a number or a scalar tensor.

    Returns:
        Scalar; 0, still connected to the inputs, for an empty batch.
    """
    a, p, n = unit(anchor), unit(positive), unit(negative)
    violation = torch.relu(margin - (distance(a, n) - distance(a, p)))
    # `mean` of an empty batch would be NaN.
    return violation.sum() / max(1, len(violation))
