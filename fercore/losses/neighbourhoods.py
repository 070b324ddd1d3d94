"""Predictions that agree with those of nearest neighbours in a bank (NRC and AaD, Yang et al., NeurIPS 2021, 2022)."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_others(features: Tensor, kept: Tensor, index: Tensor, nearest: int) -> Tensor:
    """Return the rows of a bank that are nearest to samples in cosine, a sample's own row left out by its number.

    Args:
        features: f[B,D] of unit length. kept: f[N,D] of unit length. index: int64[B], the samples' rows.
        nearest: at most N - 1 are given.

    Returns:
        int64[B, min(nearest, N - 1)].
    """
    likeness = (features @ kept.T).scatter(1, index[:, None], -torch.inf)
    return likeness.topk(min(nearest, len(kept) - 1)).indices


def reciprocal_affinity(near: Tensor, their_near: Tensor, index: Tensor, low: float = 0.1) -> Tensor:
    """Return 1 for neighbours that have a sample among their own neighbours, and `low` for others (NRC, Eq 4).

    Args:
        near: int64[B,k], neighbours of samples. their_near: int64[B,k,m], neighbours of those. index: int64[B], rows.

    Returns:
        f32[B,k].
    """
    mutual = (their_near == index[:, None, None]).any(2)
    return torch.where(mutual, torch.ones((), device=near.device), torch.tensor(low, device=near.device))


def neighbour_agreement(probs: Tensor, others: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Mean over samples of -sum_j weight_j q_j . p (NRC Eqs 5-6, AaD Eq 3); constant up to that is KL of q to 1.

    Args:
        probs: f[B,K]. others: f[B,k,K], predictions of neighbours, constants. weight: f[B,k], or one for all.

    Returns:
        Scalar; 0, still connected to `probs`, for no neighbour.
    """
    dot = torch.einsum("bk,bnk->bn", probs, others.to(probs.dtype))
    return -(weight * dot).sum() / max(1, len(probs))


def dispersion(probs: Tensor) -> Tensor:
    """Mean over samples of sum_{j != i} p_i . p_j, gradient through both factors (AaD, Eq 3).

    It is a sum over the others of a batch, and grows with the batch.

    Args:
        probs: f[B,K].

    Returns:
        Scalar; 0 for one sample.
    """
    total = probs.sum(0)
    return (total @ total - probs.square().sum()) / max(1, len(probs))
