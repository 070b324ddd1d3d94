"""Losses on the matrix of a batch's predictions: its nuclear norm and the confusion of its classes."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fercore.losses.consistency import entropy

NormScale: TypeAlias = Literal["batch", "min", "sqrt"]
"""What a nuclear norm f[M,K] is divided by: M, min(M,K), or M / sqrt(min(M,K))."""


def nuclear_norm(probs: Tensor, scale: NormScale = "batch") -> Tensor:
    """Nuclear norm of the predictions f[M,K], scaled: large where they are sure and of many classes; scalar.

    "batch" is BNM's (Cui et al., CVPR 2020, Eq 9), "min" its released code's, "sqrt" ATDOC's.
    """
    norm: Tensor = torch.linalg.svdvals(probs).sum()
    return norm * _scale(probs, scale)


def column_norms(probs: Tensor, scale: NormScale = "batch") -> Tensor:
    """Sum of the min(M,K) largest column norms of f[M,K], which bounds the nuclear norm (FBNM, Cui et al. 2021)."""
    # A root has an infinite gradient at 0, where no sample has the class.
    norms = (probs.square().sum(0) + torch.finfo(probs.dtype).tiny).sqrt()
    return norms.topk(min(probs.shape)).values.sum() * _scale(probs, scale)


def _scale(probs: Tensor, scale: NormScale) -> float:
    rows, least = len(probs), min(probs.shape)
    return {"batch": 1 / rows, "min": 1 / least, "sqrt": math.sqrt(least) / rows}[scale]


def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """Minimum class confusion (MCC, Jin et al., ECCV 2020, Eqs 3-8).

    P = softmax(logits / T), C = P' diag(w) P with w = M (1 + e^-H) / sum, rows of C scaled to sum 1; the mean share
    of a row beside the diagonal. H is the entropy of P, a constant.

    Args:
        logits: f[M,K]. temperature: T.

    Returns:
        Scalar in [0, 1 - 1/K]; 0 for one class.
    """
    probs = (logits / temperature).softmax(-1)
    # Sure samples weigh more. The paper scales the weights to mean 1; dividing by the row's sum takes that out again.
    weight = 1 + (-entropy(probs)).exp().detach()
    confusion = (probs.T * weight) @ probs
    within = confusion.diagonal() / confusion.sum(1).clamp_min(torch.finfo(probs.dtype).tiny)
    return 1 - within.mean()
