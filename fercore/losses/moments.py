"""Distances of two domains' means, covariances and higher moments.

Every function takes features f[B,D] and f[M,D] and, for the first side, constant weights f[B] that sum to 1 (None =
uniform), by which its classes can be given the shares that they have on the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 1e-12
"""Added under the root of a norm, so that the gradient at 0 is finite."""


def mean_discrepancy(x: Tensor, y: Tensor, wx: Tensor | None = None) -> Tensor:
    """Squared distance of the means, the MMD of the linear kernel (DDC, Tzeng et al. 2014, Eq 1, squared); scalar."""
    return (_mean(x, wx) - y.mean(0)).square().sum()


def coral(x: Tensor, y: Tensor, wx: Tensor | None = None) -> Tensor:
    """Squared Frobenius distance of the covariances over 4 D^2 (Deep CORAL, Sun and Saenko 2016, Eqs 1-3); scalar.

    0, still connected to the features, where a side has one sample, of which there is no covariance.
    """
    if min(len(x), len(y)) < 2:
        return 0 * (x.sum() + y.sum())
    return (_covariance(x, wx) - _covariance(y, None)).square().sum() / (4 * x.shape[1] ** 2)


def central_moments(x: Tensor, y: Tensor, wx: Tensor | None = None, *, order: int = 5, width: float = 1.0) -> Tensor:
    """Central moment discrepancy (CMD, Zellinger et al., ICLR 2017, Eq 4).

    |E x - E y| / width + sum over k = 2..order of |E (x - E x)^k - E (y - E y)^k| / width^k, with Euclidean norms.

    Args:
        x: f[B,D]. y: f[M,D]. wx: f[B]. order: of the last moment. width: of the interval that features lie in.

    Returns:
        Scalar.
    """
    means = _mean(x, wx), y.mean(0)
    centred = x - means[0], y - means[1]
    value = _norm(means[0] - means[1]) / width
    for k in range(2, order + 1):
        value = value + _norm(_mean(centred[0] ** k, wx) - (centred[1] ** k).mean(0)) / width**k
    return value


def _mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.mean(0) if weights is None else weights @ rows


def _covariance(rows: Tensor, weights: Tensor | None) -> Tensor:
    centred = rows - _mean(rows, weights)
    if weights is None:
        return centred.T @ centred / (len(rows) - 1)
    # The unbiased estimate for weights: 1 - sum w^2 is (n - 1) / n where they are uniform.
    free = (1 - weights.square().sum()).clamp_min(1 / len(rows) ** 2)
    return (centred.T * weights) @ centred / free


def _norm(vector: Tensor) -> Tensor:
    return (vector.square().sum() + SMOOTHING).sqrt()


def feature_norm_step(features: Tensor, step: float) -> Tensor:
    """Draw each norm to its own value plus a step (SAFN, Xu et al., ICCV 2019, Eq 8).

    The value is step^2 whatever the features; what counts is its gradient, -2 step f / (B |f|).

    Args:
        features: f[B,D]. step: what norms shall grow by.

    Returns:
        Scalar.
    """
    norms = _row_norms(features)
    # The constant is the value itself: only the direction of growth remains.
    return (norms - norms.detach() - step).square().mean()


def feature_norm_radius(features: Tensor, radius: float) -> Tensor:
    """Draw the mean norm of features f[B,D] to a radius (HAFN, Xu et al., ICCV 2019, Eq 6); scalar."""
    return (_row_norms(features).mean() - radius).square()


def _row_norms(features: Tensor) -> Tensor:
    return (features.square().sum(1) + SMOOTHING).sqrt()


def spectral_penalty(features: Tensor, largest: int = 1) -> Tensor:
    """Sum of the squares of the largest singular values of f[B,D] (BSP, Chen et al., ICML 2019, Eq 8); scalar."""
    values: Tensor = torch.linalg.svdvals(features)
    return values[:largest].square().sum()


def locality(features: Tensor, labels: Tensor, nearest: int = 20) -> Tensor:
    """Half the mean squared distance to the mean of a class's nearest features (LPL, Li et al., CVPR 2017, Eq 4).

    Args:
        features: f[B,D]. labels: int64[B]. nearest: k, at most what the class has besides; means are constants.

    Returns:
        Scalar over samples that have company; 0, still connected to the features, where none has.
    """
    rows = features.detach()
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    other = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    order = distance.masked_fill(~other, torch.inf).argsort(1)[:, :nearest]
    taken = torch.zeros_like(distance).scatter(1, order, 1.0) * other
    count = taken.sum(1)
    means = taken @ rows / count.clamp_min(1)[:, None]
    values = (features - means).square().sum(1) * (count > 0)
    return values.sum() / 2 / (count > 0).sum().clamp_min(1)


def discriminant_scatter(features: Tensor, labels: Tensor) -> Tensor:
    """Scatter within classes less scatter between them (DFA, Zhu et al., ICB 2016, after Fisher).

    sum_i |x_i - m_y|^2 / 2B - sum_c n_c (1 - exp(-|m_c - m|^2 / s)) / 2B, with means m_c of classes and m of all, and
    the constant s the mean squared distance to m: the second sum has a bound, so nothing is gained by growing.

    Args:
        features: f[B,D]. labels: int64[B].

    Returns:
        Scalar; 0, still connected to the features, for one sample.
    """
    member = F.one_hot(labels).to(features.dtype)
    count, mean = member.sum(0), features.mean(0)
    centres = member.T @ features / count.clamp_min(1)[:, None]
    within = (features - member @ centres).square().sum()
    scale = (features - mean).square().sum(1).mean().detach().clamp_min(SMOOTHING)
    between = count @ (1 - (-(centres - mean).square().sum(1) / scale).exp())
    value: Tensor = (within - between) / (2 * len(features))
    return value


def moving_centroids(features: Tensor, labels: Tensor, before: Tensor, momentum: float) -> Tensor:
    """Class means, moved from what they were towards a batch's (MSTN, Xie et al., ICML 2018, Algorithm 1).

    Args:
        features: f[B,D]. labels: int64[B]. before: f[K,D], constants. momentum: share of the batch's own mean.

    Returns:
        f[K,D]; a class without a sample keeps its mean.
    """
    member = F.one_hot(labels, len(before)).to(features.dtype)
    count = member.sum(0)[:, None]
    means = member.T @ features / count.clamp_min(1)
    before = before.to(features.dtype)
    return torch.where(count > 0, torch.lerp(before, means, momentum), before)


def moment_distance(sources: Sequence[Tensor], target: Tensor, moments: int = 2, *, together: bool = True) -> Tensor:
    """Mean distance of the moments of every two domains (M3SDA, Peng et al., ICCV 2019, Eq 3).

    Args:
        sources: f[B_i,D] of each source, at least one. target: f[M,D]. moments: the mean, then central moments up to
            this one, the second as the unbiased variance. together: one mean over all pairs of domains; false = the
            mean over sources with the target, and that over pairs of sources, added (the paper).

    Returns:
        Scalar, the mean over moments.
    """
    values = []
    for k in range(1, moments + 1):
        rows = [_moment(side, k) for side in (*sources, target)]
        near = [_norm(row - rows[-1]) for row in rows[:-1]]
        among = [_norm(a - b) for a, b in combinations(rows[:-1], 2)]
        groups = [near + among] if together else [group for group in (near, among) if group]
        values.append(torch.stack([torch.stack(group).mean() for group in groups]).sum())
    return torch.stack(values).mean()


def _moment(rows: Tensor, k: int) -> Tensor:
    if k == 1:
        return rows.mean(0)
    powers = (rows - rows.mean(0)) ** k
    return powers.sum(0) / max(len(rows) - 1, 1) if k == 2 else powers.mean(0)
