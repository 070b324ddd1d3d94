"""Agreement of two views' predictions (LA-CMFER, ACM MM 2024, Eqs 10-11 and Table S.3), and of predictions with pseudo
labels, as semi-supervised methods have it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.ops import mpc_consistency


def mutual_consistency(
    first: Tensor,
    second: Tensor,
    *,
    inputs: Literal["prob", "logit"] = "prob",
    form: Literal["abs", "offdiag"] = "abs",
) -> Tensor:
    """Distance of the two views' class-correlation matrix from the identity (LA-CMFER Eqs 10-11).

    Args:
        first, second: f[B,K] logits of the two views.
        inputs: "prob" = their softmax (the paper); "logit" = as they are (the released code).
        form: "abs" = Eq 11; "offdiag" = the off-diagonal mass of the released code, half of that on probabilities.

    Returns:
        Scalar; in [0, 2 - 2/K] or so for "prob", unbounded for "logit".
    """
    if inputs == "prob":
        first, second = first.softmax(-1), second.softmax(-1)
    return mpc_consistency(first, second, form=form)


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences, mean over the batch; f[B,K] logits -> scalar (Table S.3)."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    one, other = (F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p)))
    return (one + other) / 2


def mean_absolute(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of logits f[B,K]; scalar (Table S.3, "L1")."""
    return F.l1_loss(first, second)


def mean_squared(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of logits f[B,K]; scalar (Table S.3, "MSE")."""
    return F.mse_loss(first, second)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Raise probabilities f[...,K] to 1 / temperature and let rows sum to 1 again (MixMatch, Berthelot et al. 2019)."""
    # In logarithms: a power of a small probability would underflow.
    tiny = torch.finfo(probs.dtype).tiny
    return (probs.clamp_min(tiny).log() / temperature).softmax(-1)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy with hard or soft pseudo labels, weighted, and divided by the batch (FixMatch, Sohn et al. 2020).

    Args:
        logits: f[B,K]. targets: int64[B], or f[B,K] rows summing to 1. weight: f[B] in [0,1].

    Returns:
        Scalar; 0, still connected to the logits, where every weight is 0.
    """
    return (weight * F.cross_entropy(logits, targets, reduction="none")).mean()


def probability_mse(logits: Tensor, probs: Tensor) -> Tensor:
    """Mean squared difference of softmax(logits f[B,K]) and probabilities f[B,K], over samples and classes; scalar."""
    return F.mse_loss(logits.softmax(-1), probs)


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions f[B,K]; scalar (Grandvalet and Bengio 2004)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def entropy(probs: Tensor) -> Tensor:
    """Entropy f[B] of probabilities f[B,K], in nats."""
    # xlogy is 0 at 0, its gradient is not: the floor keeps that finite.
    return -torch.xlogy(probs, probs.clamp_min(torch.finfo(probs.dtype).tiny)).sum(-1)


def self_adaptive_fairness(logits: Tensor, selected: Tensor, class_means: Tensor, histogram: Tensor) -> Tensor:
    """Keep the strong views' predictions as varied as the weak ones' have been (FreeMatch, Wang et al. 2023, Eq 11).

    sum_k a_k log b_k with a = class_means / histogram and b = mean probability / share of predictions of the selected
    samples, both summing to 1; a class that nothing is predicted as has a share of 0 in either. Minimised.

    Args:
        logits: f[B,K] of the strong views. selected: f[B], > 0 = takes part.
        class_means: f[K], running mean probabilities. histogram: f[K], running shares of predictions.

    Returns:
        Scalar; 0, still connected to the logits, where nothing is selected.
    """
    share = (selected > 0).to(logits.dtype)
    total = share.sum().clamp_min(1)
    probs = logits.softmax(-1)
    mean = (share[:, None] * probs).sum(0) / total
    predicted = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    goal = _by_share(class_means.to(logits.dtype), histogram.to(logits.dtype))
    now = _by_share(mean, (share[:, None] * predicted).sum(0) / total)
    # A class predicted by no selected sample has a share of 0.
    value = (goal.detach() * (now + 1e-12).log()).sum()
    return value * (share.sum() > 0)


def _by_share(mean: Tensor, share: Tensor) -> Tensor:
    """Return mean / share over its sum, 0 where the share is 0."""
    scaled = torch.where(
        share > 0, mean / torch.where(share > 0, share, torch.ones_like(share)), torch.zeros_like(mean)
    )
    total = scaled.sum()
    return scaled / torch.where(total > 0, total, torch.ones_like(total))


def neighbour_labels(features: Tensor, kept: Tensor, shares: Tensor, index: Tensor, nearest: int) -> Tensor:
    """Mean class shares of a sample's nearest neighbours in a bank, itself left out (ATDOC, Liang et al. 2021, Eq 9).

    Args:
        features: f[B,D] of unit length. kept: f[N,D], of unit length. shares: f[N,K] of the bank's samples.
        index: int64[B], where each sample stands in the bank. nearest: at most N - 1.

    Returns:
        f[B,K].
    """
    likeness = (features @ kept.T).scatter(1, index[:, None], -torch.inf)
    return shares[likeness.topk(min(nearest, len(kept) - 1)).indices].mean(1)
