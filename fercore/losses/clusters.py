"""Clusters of unlabelled samples that start from labelled ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses.contrastive import unit


def spherical_clusters(
    rows: Tensor, labelled: Tensor, labels: Tensor, num_classes: int, *, rounds: int = 50, tolerance: float = 5e-3
) -> tuple[Tensor, Tensor]:
    """Spherical K-means from the directions of labelled class means (CAN, Kang et al., CVPR 2019, section 3.4).

    Centres are sums of unit rows. An empty cluster keeps its centre; a class without labelled samples has none.

    Args:
        rows: f[N,D]. labelled: f[B,D]. labels: int64[B]. num_classes: K.
        rounds: at most so many. tolerance: mean (1 - cos) / 2 that centres move by where it ends.

    Returns:
        int64[N], the class of each row's centre; f[N], (1 - cos) / 2 from it, in [0, 1].
    """
    rows, member = unit(rows), F.one_hot(labels, num_classes).to(rows.dtype)
    centres, present = unit(member.T @ unit(labelled)), member.sum(0) > 0
    for _ in range(rounds):
        likeness = (rows @ centres.T).masked_fill(~present, -torch.inf)
        member = F.one_hot(likeness.argmax(1), num_classes).to(rows.dtype)
        moved = torch.where(member.sum(0)[:, None] > 0, unit(member.T @ rows), centres)
        shift = (1 - (moved * centres).sum(1))[present].mean() / 2
        centres = moved
        if shift < tolerance:
            break
    likeness = (rows @ centres.T).masked_fill(~present, -torch.inf)
    best = likeness.max(1)
    return best.indices, ((1 - best.values) / 2).clamp(0, 1)
