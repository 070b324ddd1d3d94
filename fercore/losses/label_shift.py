"""Class shares of unlabelled samples, from the predictions of a classifier that was trained under other shares."""

from __future__ import annotations

import torch
from torch import Tensor


def class_shares(probs: Tensor, source: Tensor, rounds: int = 50) -> Tensor:
    """Expectation maximisation of the class shares (Saerens, Latinne and Decaestecker, Neural Computation 2002).

    q <- mean_i of p_i q / source, each scaled to sum 1, from q = source on. The maximum of the likelihood where the
    probabilities are calibrated for the source.

    Args:
        probs: f[N,K] of the unlabelled samples. source: f[K], shares that the classifier was trained under.
        rounds: of the iteration.

    Returns:
        f[K] that sums to 1; 0 for a class that the source does not have.
    """
    present = source > 0
    # Up to a factor of each sample, which the scaling of a row takes out.
    likelihood = torch.where(present, probs / torch.where(present, source, torch.ones_like(source)), 0.0)
    shares = source / source.sum()
    for _ in range(rounds):
        # E step: posterior of each sample under the present shares; M step: their mean.
        joint = likelihood * shares
        shares = (joint / joint.sum(1, keepdim=True).clamp_min(torch.finfo(probs.dtype).tiny)).mean(0)
    return shares / shares.sum()
