"""What methods minimise, and what they weigh samples by, when they adapt while predicting.

Log-probabilities f[B,K] are those of `log_probabilities`, so that a network of several branches has one entropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses.consistency import entropy
from fercore.losses.precision import to_float32

Affinity: TypeAlias = Literal["knn", "rbf", "linear"]
TINY = 1e-10


def log_probabilities(logits: Iterable[Tensor]) -> Tensor:
    """Return the logarithm f[B,K] of the mean of the branches' softmax, from their logits f[B,K]."""
    logs = torch.stack([to_float32(z).log_softmax(1) for z in logits])
    return logs.logsumexp(0) - math.log(len(logs)) if len(logs) > 1 else logs[0]


def log_entropy(log_p: Tensor) -> Tensor:
    """Return the entropy f[B] in nats of log-probabilities f[B,K]."""
    return -(log_p.exp() * log_p).sum(1)


def reliable_and_new(log_p: Tensor, mean: Tensor | None, margin: float, similarity: float) -> Tensor:
    """Return bool[B], the samples that EATA trains on (Niu et al., ICML 2022, Eqs 3 and 5).

    Args:
        log_p: f[B,K]. mean: f[K], running mean probabilities of those before; None = there are none.
        margin: entropy below which a sample is reliable. similarity: cosine to `mean` below which it is new.
    """
    log_p = log_p.detach()
    reliable = log_entropy(log_p) < margin
    if mean is None:
        return reliable
    return reliable & (F.cosine_similarity(mean[None], log_p.exp(), dim=1).abs() < similarity)


def weighted_entropy(log_p: Tensor, selected: Tensor, margin: float) -> Tensor:
    """Return the mean over selected samples of exp(margin - H) H, the weight a constant (EATA, Eqs 2 and 3); scalar.

    Args:
        log_p: f[B,K]. selected: bool[B], at least one. margin: as for `reliable_and_new`.
    """
    h = log_entropy(log_p[selected])
    return ((margin - h.detach()).exp() * h).mean()


def anchored(weights: Iterable[Tensor], anchors: Iterable[Tensor], importance: Iterable[Tensor]) -> Tensor:
    """Return sum of importance (weight - anchor)^2 over all entries (EATA, Eq 8), tensors of equal shapes; scalar."""
    terms = [(f * (w - a).square()).sum() for w, a, f in zip(weights, anchors, importance, strict=True)]
    return torch.stack(terms).sum()


def soft_cross_entropy(log_p: Tensor, target: Tensor) -> Tensor:
    """Return -sum_k target log p, f[B], of log-probabilities f[B,K] and target probabilities f[B,K] as constants."""
    return -(target.detach() * log_p).sum(1)


def timeliness(ages: Tensor) -> Tensor:
    """Return e^-a / (1 + e^-a), f[n], for ages f[n] as shares of the memory's size (RoTTA, Yuan et al. 2023, Eq 9)."""
    return torch.sigmoid(-ages)


def marginal_entropy(log_p: Tensor) -> Tensor:
    """Return the entropy of the mean prediction over views of an image (MEMO, Zhang et al. 2022, Eq 3); scalar.

    Args:
        log_p: f[n,K], of n views.
    """
    return log_entropy(log_p.logsumexp(0, keepdim=True) - math.log(len(log_p)))[0]


def rare_first(labels: Tensor, shares: Tensor) -> Tensor:
    """Return weights f[B] that go as 1 / share of each sample's class, with mean 1 (DELTA, Zhao et al. 2023, DOT).

    Args:
        labels: int64[B]. shares: f[K], running mean probabilities.
    """
    weights = 1 / shares.clamp_min(TINY)[labels]
    return weights / weights.mean()


def affinity(features: Tensor, kind: Affinity, neighbours: int) -> Tensor:
    """Return how alike the samples of a batch are, f[B,B] (LAME, Boudiaf et al., CVPR 2022, section 5).

    Args:
        features: f[B,D], taken at unit length. kind: "knn" = 1 for the nearest others; "rbf" = exp(-d^2 / 2 s^2)
            with s the mean distance to the neighbour of that number, oneself counted; "linear" = the cosine.
        neighbours: of knn and rbf; fewer in a small batch.
    """
    x = F.normalize(to_float32(features), dim=1)
    if kind == "linear":
        return x @ x.T
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    if kind == "rbf":
        scale = distances.topk(min(neighbours, len(x)), largest=False).values[:, -1].mean().clamp_min(TINY)
        return (-distances.square() / (2 * scale.square())).exp()
    # Oneself is left out by number: copies of an image are as near.
    others = distances.fill_diagonal_(torch.inf)
    nearest = others.topk(min(neighbours, len(x) - 1), largest=False).indices
    return torch.zeros_like(distances).scatter_(1, nearest, 1.0)


def laplacian_assignment(log_p: Tensor, weights: Tensor, rounds: int = 100) -> Tensor:
    """Return probabilities f[B,K] that are near to p and alike for samples alike (LAME, Eq 7), by iteration.

    Y <- softmax(log p + W Y) from Y = p, until the energy (Eq 4) changes by less than 1e-8 of itself.

    Args:
        log_p: f[B,K]. weights: W f[B,B]. rounds: at most.
    """
    unary = (log_p.exp() + TINY).log()
    y, old = unary.softmax(1), math.inf
    for number in range(rounds):
        pairwise = weights @ y
        y = (unary + pairwise).softmax(1)
        energy = float((-unary * y - pairwise * y).sum() - entropy(y).sum())
        if number > 1 and abs(energy - old) <= 1e-8 * abs(old):
            break
        old = energy
    return y
