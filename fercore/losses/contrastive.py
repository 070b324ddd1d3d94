"""Contrastive losses over augmented views (POCAN, ACCV 2022, Eqs 1 and 4; Chen et al. 2020, Khosla et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-12


def unit(x: Tensor) -> Tensor:
    """Scale vectors to length 1: x / max(||x||, 1e-12).

    Args:
        x: f[...,D].

    Returns:
        f[...,D]; a vector shorter than 1e-12 is divided by that and passes no gradient, which would be 1e12-fold.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    short = norm <= EPS
    # The inner `where` keeps 0/0 out of the branch not taken, whose gradient would be NaN all the same.
    return torch.where(short, x.detach() / EPS, x / torch.where(short, torch.ones_like(norm), norm))


class UnitLength(nn.Module):
    """`unit` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map f[...,D] to f[...,D]."""
        return unit(x)


def info_nce(z1: Tensor, z2: Tensor, tau: float) -> Tensor:
    """Tell each sample's other view from all other views of the batch (POCAN Eq 1; NT-Xent).

    Args:
        z1, z2: f[B,D], two views of the same samples in the same order; compared by cosine.
        tau: temperature, > 0.

    Returns:
        Scalar, mean over the 2B views: -log of exp(z.z'/tau) over its sum with the other 2B-1 views; 0 for B = 0 or 1.

    Raises:
        ValueError: if the shapes differ.
    """
    if z1.shape != z2.shape:
        raise ValueError(f"two views of the same samples have shapes {tuple(z1.shape)} and {tuple(z2.shape)}")
    # Labels of their own for every sample: its other view is the only positive, and SupCon becomes NT-Xent.
    return supcon(torch.stack([z1, z2], 1), torch.arange(len(z1), device=z1.device), tau)


def supcon(z: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Draw views of one class together and hold them away from the others (POCAN Eq 4; SupCon's L_out).

    Args:
        z: f[B,V,D], V views of each sample; compared by cosine.
        labels: int64[B]; -1 = unknown: only the sample's own other views are its positives.
        tau: temperature, > 0.

    Returns:
        Scalar, mean over the views that have a positive; 0, still connected to z, where none has.
        An anchor is no member of its own denominator.
    """
    samples, views = z.shape[:2]
    rows = unit(z).flatten(0, 1)
    own = torch.arange(samples, device=z.device).repeat_interleave(views)
    names = labels.repeat_interleave(views)
    others = ~torch.eye(len(rows), dtype=torch.bool, device=z.device)
    positive = ((own == own[:, None]) | ((names == names[:, None]) & (names >= 0))) & others
    scores = rows @ rows.mT / tau
    # A lone view has an empty denominator: it is kept finite here and has no positive to count below.
    bounded = scores.masked_fill(~others & (len(rows) > 1), -torch.inf)
    log_share = scores - bounded.logsumexp(1, keepdim=True)
    count = positive.sum(1)
    anchors = -(log_share * positive.to(scores.dtype)).sum(1) / count.clamp_min(1)
    return anchors.sum() / (count > 0).sum().clamp_min(1)


def graph_contrast(first: Tensor, second: Tensor, probs: Tensor, tau: float, least: float = 0.8) -> Tensor:
    """Cross-entropy of a graph of pseudo labels with one of embeddings (CoMatch, Li et al., ICCV 2021, Eqs 5-8).

    Samples are joined by p_i'p_j where that reaches `least`, each with itself by 1; rows of the graph sum to 1.

    Args:
        first, second: f[B,D] of unit length, two views. probs: f[B,K], constants. tau: temperature. least: threshold.

    Returns:
        Scalar, the mean over samples.
    """
    joined = (probs @ probs.T).detach().fill_diagonal_(1)
    joined = joined * (joined >= least)
    scores = (first @ second.T / tau).log_softmax(1)
    return -(joined / joined.sum(1, keepdim=True) * scores).sum(1).mean()
