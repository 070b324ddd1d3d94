"""Scores, losses and inference of PCA on plain tensors (Eqs 7, 8, 11-13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses import unit
from fercore.losses.soft_targets import masked_mean
from fercore_pca.settings import Infer

PDA_SHARE = 0.5
"""Share of the aligned logits in PDA's rule of inference."""


def cosine_logits(features: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """Score images by their cosine with the class texts, the logits of Eqs 7 and 11.

    Args:
        features: f[B,d] x_v or x'. texts: f[C,d] o. scale: s.

    Returns:
        f[B,C]; a vector of no length scores 0.
    """
    return scale * (unit(features) @ unit(texts).mT)


def aligned_logits(
    aligned: Tensor, texts: Tensor, scale: Tensor | float, *, score: Literal["cosine", "sum_logits"], beta: float
) -> Tensor:
    """Score aligned features x' (Eq 11).

    Args:
        aligned: f[B,d], the sum of two vectors of length 1. texts: f[C,d]. scale: s.
        score: "cosine" = that of x' (paper); "sum_logits" = both halves' logits summed: x' is not brought to length 1
            (PDA). beta: factor.
    """
    if score == "cosine":
        return beta * cosine_logits(aligned, texts, scale)
    return beta * scale * (aligned @ unit(texts).mT)


def label_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of -log p(y|x) over the samples that have a label (Eqs 8 and 12).

    Args:
        logits: f[B,C] of both sides together. labels: int64[B], -1 = none.
        weight: f[B] in [0,1] of pseudo labels; 0 = not selected.

    Returns:
        Scalar; 0, still connected to the logits, where no sample has a label.
    """
    known = (labels >= 0).to(logits.dtype)
    each = F.cross_entropy(logits, labels.clamp_min(0), reduction="none")
    return masked_mean(each, known if weight is None else known * weight)


def infer(logits: Mapping[str, Tensor], rule: Infer, weights: tuple[float, float]) -> Tensor:
    """Return class probabilities f[B,C]; the letter says "highest cosine" and no more.

    Args:
        logits: "cls" and, where the rule needs it, "iga" -> f[B,C].
        rule: "weighted" = lambda1 p(.|x_v) + lambda2 p(.|x'), over their sum; "cls", "iga" = one branch;
            "pda" = softmax of logits + 0.5 aligned logits.
        weights: lambda1, lambda2.
    """
    if rule == "cls":
        return logits["cls"].softmax(-1)
    if rule == "iga":
        return logits["iga"].softmax(-1)
    if rule == "pda":
        return (logits["cls"] + PDA_SHARE * logits["iga"]).softmax(-1)
    first, second = weights
    both = torch.stack([first * logits["cls"].softmax(-1), second * logits["iga"].softmax(-1)])
    return both.sum(0) / (first + second)
