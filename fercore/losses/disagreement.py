"""How far two heads' predictions of the same samples lie apart (MCD, SWD), and one head over both (SymNets)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_difference(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of probabilities f[B,K], samples and classes (MCD, Saito et al. 2018, Eq 2); scalar."""
    return (first - second).abs().mean()


def sliced_wasserstein(first: Tensor, second: Tensor, directions: int = 128) -> Tensor:
    """Mean squared difference of sorted random projections (SWD, Lee et al., CVPR 2019, Eq 4).

    Args:
        first: f[B,K], second: f[M,K]: probabilities; the longer side is cut to the length of the other.
        directions: of unit length, drawn again from torch's generator.

    Returns:
        Scalar.
    """
    n = min(len(first), len(second))
    unit = F.normalize(torch.randn(first.shape[1], directions, device=first.device, dtype=first.dtype), dim=0)
    left, right = ((side[:n] @ unit).sort(0).values for side in (first, second))
    return (left - right).square().mean()


def class_balance(probs: Tensor) -> Tensor:
    """Cross-entropy of even classes with the mean prediction of f[B,K] (released code of MCD for VisDA); scalar."""
    return -(probs.mean(0) + 1e-6).log().mean()


def half_mass(logits: Tensor, *, first: bool) -> Tensor:
    """Mean -log of the probability of one half of the classes of f[B,2K] (SymNets, Zhang et al. 2019, Eq 5).

    Args:
        logits: of two heads side by side, under one softmax. first: the first half; false = the second.

    Returns:
        Scalar.
    """
    half = logits.shape[1] // 2
    own = logits[:, :half] if first else logits[:, half:]
    return (logits.logsumexp(1) - own.logsumexp(1)).mean()


def joint_entropy(logits: Tensor) -> Tensor:
    """Mean entropy over classes of f[B,2K] of two heads, each class the sum of both (SymNets, Eq 10); scalar."""
    log_p = logits.log_softmax(1)
    both = torch.stack(log_p.chunk(2, 1)).logsumexp(0)
    return -(both.exp() * both).sum(1).mean()
