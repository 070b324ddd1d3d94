"""Losses with pseudo labels that not every sample has, soft or hard (AdaFER, Wang et al. 2020, Eq 3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_PROBABILITY = 1e-8
"""Floor of q inside the logarithm of KL(P||q), which is infinite where q is 0."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of f[B] over the samples of a mask (bool or weights in [0,1]); connected 0 where it is empty."""
    weight = mask.to(values.dtype)
    total = weight.sum()
    return (weight * values).sum() / torch.where(total > 0, total, torch.ones_like(total))


def soft_kl(logits: Tensor, q: Tensor, mask: Tensor, *, direction: Literal["q_p", "p_q"] = "q_p") -> Tensor:
    """Mean divergence between soft labels and predictions over the samples that have a label (AdaFER Eq 3).

    Args:
        logits: f[B,K] of the predictions P.
        q: f[B,K] soft labels, rows summing to 1; may hold zeros (0 log 0 = 0).
        mask: bool[B], or weights in [0,1]: which samples have a label.
        direction: "q_p" = sum q (log q - log P), as in torch's KLDivLoss; "p_q" = sum P (log P - log max(q, 1e-8)).

    Returns:
        Scalar; 0, still connected to the logits, where no sample has a label.
    """
    log_p = logits.log_softmax(dim=-1)
    q = q.to(log_p.dtype)
    if direction == "q_p":
        values = (torch.xlogy(q, q) - q * log_p).sum(dim=-1)
    else:
        values = (log_p.exp() * (log_p - q.clamp_min(LEAST_PROBABILITY).log())).sum(dim=-1)
    return masked_mean(values, mask)


def masked_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the samples that have a label (AdaFER Eq 3, hard pseudo labels).

    Args:
        logits: f[B,K]. labels: int64[B], anything in 0..K-1, or -1, where the mask is 0. mask: bool[B] or weights.

    Returns:
        Scalar; 0, still connected to the logits, where no sample has a label.
    """
    return masked_mean(F.cross_entropy(logits, labels.clamp_min(0), reduction="none"), mask)
