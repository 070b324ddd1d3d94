"""Which predictions are trusted: confidence masks, voting and the loss on what was voted for (LA-CMFER Eqs 9, 12),
and thresholds that adapt to each class (POCAN Eq 14; FlexMatch, FreeMatch, SoftMatch, Dash, Ada-CM).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.records.step import PseudoLabels


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
    # float64, and clamped to the largest: a mean of equal confidences must not round above them, or nothing is trusted.
    exact = confidence.detach().double()
    member = predicted[:, None] == torch.arange(num_classes, device=predicted.device)
    count = member.sum(0)
    none = exact.new_zeros(1, num_classes)
    # A row of zeros below: amax has no value for an empty batch.
    largest = torch.cat([torch.where(member, exact[:, None], none), none]).amax(0)
    mean = torch.minimum((exact[:, None] * member).sum(0) / count.clamp_min(1), largest)
    level = torch.minimum(mean + (largest - mean) * (1 - mean.pow(beta)), largest)
    return torch.where(count > 0, level, torch.full_like(level, torch.inf)).to(confidence.dtype)


def curriculum_thresholds(
    learnt: Tensor,
    num_classes: int,
    threshold: float,
    *,
    warmup: bool = True,
    mapping: Literal["convex", "squared"] = "convex",
) -> Tensor:
    """Lower the threshold of classes that few samples have been learnt of (FlexMatch, Zhang et al. 2021, Eqs 5-11).

    Args:
        learnt: int64[N], class each unlabelled sample was last sure of, -1 = none yet.
        num_classes: K. threshold: in (0, 1], of the class learnt best.
        warmup: samples that are not learnt count as a class of their own, so that thresholds begin low.
        mapping: of beta = count of the class / largest count: "convex" = beta / (2 - beta), "squared" =
            ((beta + 1) / 2)^2, which begins at 1/4 (AGLRLS, Gao et al., TMM 2024).

    Returns:
        f[K], threshold * mapping; beta is 0 while nothing is learnt.
    """
    counts = torch.bincount(learnt[learnt >= 0], minlength=num_classes).float()
    largest = counts.max()
    if warmup:
        largest = torch.maximum(largest, (learnt < 0).sum().float())
    share = counts / largest.clamp_min(1)
    if mapping == "squared":
        return threshold * ((share + 1) / 2).square()
    # FlexMatch's convex mapping (Eq 11): slow at first, steep near the class learnt best.
    return threshold * share / (2 - share)


def self_adaptive_thresholds(level: Tensor, class_means: Tensor) -> Tensor:
    """Scale a global threshold by how sure the network is of each class (FreeMatch, Wang et al. 2023, Eq 8).

    Args:
        level: scalar tau_t, running mean confidence. class_means: f[K], running mean probabilities.

    Returns:
        f[K], level * class_means / max(class_means).
    """
    return level * class_means / class_means.max().clamp_min(torch.finfo(class_means.dtype).tiny)


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor, sigmas: float = 2.0) -> Tensor:
    """Weigh samples by how far their confidence lies below the mean (SoftMatch, Chen et al. 2023, Eq 6).

    Args:
        confidence: f[B] in [0,1]. mean, variance: scalars or f[B], of all confidences. sigmas: > 0; more is stricter.

    Returns:
        f[B] in [0,1]: exp(-min(confidence - mean, 0)^2 sigmas^2 / (2 variance)); without variance, 1 from the mean on
        and 0 below.
    """
    below = (confidence - mean).clamp_max(0)
    exponent = sigmas**2 * below.square() / (2 * variance.clamp_min(torch.finfo(confidence.dtype).tiny))
    return torch.where(below < 0, torch.exp(-exponent), torch.ones_like(confidence))


def align_distribution(probs: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
    """Move predictions towards a class distribution (ReMixMatch, Berthelot et al. 2020; as in AdaMatch and SoftMatch).

    Args:
        probs: f[B,K]. seen: f[K], running mean of the predictions. wanted: f[K].

    Returns:
        f[B,K], probs (wanted + 1e-6) / (seen + 1e-6), rows summing to 1.
    """
    moved = probs * (wanted + 1e-6) / (seen + 1e-6)
    return moved / moved.sum(-1, keepdim=True)


def shrinking_threshold(start: float, updates: int, *, base: float = 1.27, factor: float = 1.0001) -> float:
    """Return Dash's threshold on the loss: factor * base^-updates * start (Xu et al. 2021, Eq 9)."""
    return factor * base**-updates * start


def labelled_thresholds(
    probs: Tensor, labels: Tensor, epoch: int, *, floor: float = 0.8, scale: float = 0.97
) -> Tensor:
    """Threshold of each class from the labelled samples that are classified rightly (Ada-CM, Li et al. 2022, Eqs 3-4).

    Args:
        probs: f[N,K] of the labelled samples. labels: int64[N]. epoch: how many are finished, from 1.
        floor: least threshold, and that of a class without such a sample. scale: share of their mean confidence that
            counts in the end.

    Returns:
        f[K], max(floor, mean confidence * scale / (1 + e^-epoch)), at most 1.
    """
    top, predicted = probs.detach().max(-1)
    right = (predicted == labels)[:, None] & (labels[:, None] == torch.arange(probs.shape[1], device=labels.device))
    mean = (top[:, None] * right).sum(0) / right.sum(0).clamp_min(1)
    return (mean * (scale / (1 + math.exp(-epoch)))).clamp(floor, 1.0)
