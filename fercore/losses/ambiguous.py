"""Ambiguous pseudo labels: a set of candidate classes against the rest (LEAF, Zhang et al. 2024, Eqs 6-14)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def positive_set(probs: Tensor, threshold: float) -> Tensor:
    """Take the likeliest classes until their probabilities reach a threshold (LEAF Eqs 6-8).

    Args:
        probs: f[B,K], rows summing to 1.
        threshold: T in (0, 1].

    Returns:
        bool[B,K]: the smallest number of top classes whose sum is at least T, and every class where rounding keeps the
        sum below it. Of equal classes the one with the lower index comes first. Constant: no gradient passes.
    """
    order, count = _reach(probs, threshold)
    return _top(order, count)


def official_positive_set(probs: Tensor, threshold: float, most: int = 3) -> Tensor:
    """Take one class fewer than reach the threshold, at least 1 and at most 3 (LEAF's released code, topk_ce_FPL).

    Args:
        probs: f[B,K], rows summing to 1.
        threshold: T in (0, 1].
        most: largest number of candidates.

    Returns:
        bool[B,K], as of `positive_set`.
    """
    order, count = _reach(probs, threshold)
    return _top(order, (count - 1).clamp(1, most))


def ambiguous_consistency(scores: Tensor, positive: Tensor, margin: float = 0.0) -> Tensor:
    """Hold every candidate class above every other one (LEAF Eq 14): max(negatives) - min(positives), smooth.

    softplus(logsumexp over the positives of -s + logsumexp over the negatives of s + margin), never an exponential of
    a score alone.

    Args:
        scores: f[B,K], logits or probabilities; half precision is computed in float32.
        positive: bool[B,K].
        margin: epsilon of Eq 9.

    Returns:
        f[B]; 0, with a gradient of 0, where a sample has no negative or no positive class.
    """
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    both = positive.any(-1, keepdim=True) & (~positive).any(-1, keepdim=True)
    # An empty logsumexp has no gradient to give: rows without two sides keep all entries here and are dropped below.
    least = (-scores).masked_fill(~positive & both, -torch.inf).logsumexp(-1)
    largest = scores.masked_fill(positive & both, -torch.inf).logsumexp(-1)
    gap = torch.where(both.squeeze(-1), least + largest + margin, torch.zeros_like(least))
    # softplus(gap); F.softplus is linear above 20, which is inexact in float64.
    return torch.where(both.squeeze(-1), -F.logsigmoid(-gap), torch.zeros_like(gap))


def concave_weights(probs: Tensor, positive: Tensor, slope: float = 50.0) -> Tensor:
    """Weigh samples by how far the first rejected class lies below the mean of the candidates and itself.

    With q the largest probability outside the candidates and c the mean of the candidates' and q, the weight is
    log(1 + slope (c - q)) / log(1 + slope c), at most 1 (LEAF's released code).

    Args:
        probs: f[B,K] that the candidates come from, rows summing to 1.
        positive: bool[B,K], the top classes of each row.
        slope: how concave.

    Returns:
        f[B] in [0, 1]; 1 where every class is a candidate. Constant: no gradient passes.
    """
    probs = probs.detach()
    count = positive.sum(-1)
    # Below every probability: a candidate is never the largest rejected class.
    rejected = probs.masked_fill(positive, -1.0).amax(-1)
    some = count < positive.shape[-1]
    mean = ((probs * positive).sum(-1) + rejected) / (count + 1)
    mean = torch.where(some, mean, torch.ones_like(mean))
    # Ones where nothing is rejected: log1p(slope) / log1p(slope) = 1.
    gap = torch.where(some, (mean - rejected).clamp_min(0), torch.ones_like(mean))
    return (torch.log1p(slope * gap) / torch.log1p(slope * mean)).clamp_max(1)


def _reach(probs: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the classes by falling probability int64[B,K], and how many of them reach the threshold int64[B]."""
    ranked, order = probs.detach().sort(dim=-1, descending=True, stable=True)
    # float64: rounding of the running sum must not decide whether a threshold near 1 is reached.
    below = (ranked.double().cumsum(-1) < threshold).sum(-1)
    return order, (below + 1).clamp_max(probs.shape[-1])


def _top(order: Tensor, count: Tensor) -> Tensor:
    """Return bool[B,K]: the first `count` classes of each row's order."""
    rank = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, rank < count.unsqueeze(-1))
