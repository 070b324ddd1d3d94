"""Which predictions are trusted: confidence masks, voting and the loss on what was voted for (LA-CMFER Eqs 9, 12),
and thresholds that adapt to each class (POCAN Eq 14).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.types import PseudoLabels


def confident(probs: Tensor, threshold: float) -> Tensor:
    """Return bool[...,B]: the largest of f[...,B,K] probabilities reaches the threshold (LA-CMFER, after Eq 9)."""
    return probs.detach().amax(-1) >= threshold


def vote(probs_g: Tensor, probs_l: Tensor, tau: float) -> PseudoLabels:
    """Label the samples on which two views agree and at least one is sure (LA-CMFER Eq 12's MV).

    Args:
        probs_g: f[B,K] probabilities of the global view.
        probs_l: f[B,K] probabilities of the local view.
        tau: a sample is selected if either largest probability is greater than this.

    Returns:
        labels int64[B] (the surer view's class, the common one wherever a sample is selected), weight f[B] in {0, 1},
        probs f[B,K] = the mean of both; detached.
    """
    probs_g, probs_l = probs_g.detach(), probs_l.detach()
    (sure_g, class_g), (sure_l, class_l) = probs_g.max(-1), probs_l.max(-1)
    selected = (class_g == class_l) & (torch.maximum(sure_g, sure_l) > tau)
    labels = torch.where(sure_l > sure_g, class_l, class_g)
    return PseudoLabels(labels, selected.to(probs_g.dtype), (probs_g + probs_l) / 2)


def voted_cross_entropy(
    logits: Iterable[Tensor], labels: Tensor, weight: Tensor, *, norm: Literal["batch", "selected"] = "batch"
) -> Tensor:
    """Cross-entropy of each view with the voted labels, summed over the views (LA-CMFER Eq 12).

    Args:
        logits: f[B,K] of each view.
        labels: int64[B]. weight: f[B] in [0,1], 0 = not selected.
        norm: divide by the batch (the paper) or by the selected weight (the released code).

    Returns:
        Scalar; 0, still connected to the logits, where nothing is selected.
    """
    total = weight.sum() if norm == "selected" else torch.full_like(weight.sum(), len(weight))
    share = weight / torch.where(total > 0, total, torch.ones_like(total))
    return torch.stack([(share * F.cross_entropy(z, labels, reduction="none")).sum() for z in logits]).sum()


def adaptive_thresholds(confidence: Tensor, predicted: Tensor, num_classes: int, beta: float) -> Tensor:
    """Threshold of each class from the confidences of what is predicted as it (POCAN Eq 14).

    Args:
        confidence: f[N] in [0,1], largest probability of each sample.
        predicted: int64[N], the class it belongs to.
        num_classes: K.
        beta: > 0; a larger one is stricter.

    Returns:
        f[K], avg + (max - avg) (1 - avg^beta), never above the class's largest confidence, so that `>=` trusts that
        sample at least; +inf for a class that is never predicted; detached.
    """
    exact = confidence.detach().double()
    member = predicted[:, None] == torch.arange(num_classes, device=predicted.device)
    count = member.sum(0)
    none = exact.new_zeros(1, num_classes)
    largest = torch.cat([torch.where(member, exact[:, None], none), none]).amax(0)
    mean = torch.minimum((exact[:, None] * member).sum(0) / count.clamp_min(1), largest)
    level = torch.minimum(mean + (largest - mean) * (1 - mean.pow(beta)), largest)
    return torch.where(count > 0, level, torch.full_like(level, torch.inf)).to(confidence.dtype)
