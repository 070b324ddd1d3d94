"""Plain-torch forms of the ops: what the compiled kernels are checked against, and the last resort without them.

The maths is that of the kernels: rows centred first, one Gram matrix, one exponential a pair, class sums by products
with normalised one-hot weights. Everything is batched, differentiable twice, and free of host synchronisation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_BANDWIDTH = 1e-12
SNAP = 16.0


class Alignment(NamedTuple):
    """Sample-level value f[G], class-pair values f[G,K,K], and where a pair is valid bool[G,K,K]."""

    sample: Tensor
    value: Tensor
    valid: Tensor


def squared_distances(rows: Tensor) -> Tensor:
    """Return the squared distances [G,n,n] of rows [G,n,D]; what is under rounding noise is 0, gradient included;
    NaN stays NaN.
    """
    gram = rows @ rows.mT
    squares = gram.diagonal(dim1=-2, dim2=-1)
    bound = squares.unsqueeze(-1) + squares.unsqueeze(-2)
    distances = bound - 2 * gram
    # |u|^2 + |v|^2 - 2 u.v cancels where rows are close: what is left below some ulps of the terms is rounding.
    noise = SNAP * torch.finfo(rows.dtype).eps * bound.detach()
    # Written so that NaN takes the other branch and stays visible.
    return torch.where(distances - noise <= 0, torch.zeros_like(distances), distances)


def multi_kernel(distances: Tensor, bandwidth: Tensor, num_kernels: int, multiplier: float) -> Tensor:
    """Return sum over q of exp(-d / (bandwidth * multiplier^(q - num_kernels//2))); bandwidth broadcasts against d."""
    if multiplier == 2.0:
        # The widest Gaussian once; each next one, of half the bandwidth, is its square.
        power = torch.exp(-distances / (bandwidth * 2.0 ** (num_kernels - 1 - num_kernels // 2)))
        total = power
        for _ in range(num_kernels - 1):
            power = power * power
            total = total + power
        return total
    scales = [multiplier ** (q - num_kernels // 2) for q in range(num_kernels)]
    return sum((torch.exp(-distances / (bandwidth * scale)) for scale in scales), torch.zeros_like(distances))


def class_weights(
    labels: Tensor, weights: Tensor | None, num_classes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return membership [G,n,K] (zero for a label outside 0..K-1), and the same with weights of sum 1 in a class."""
    member = (labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)).to(dtype)
    weighted = member if weights is None else member * weights.unsqueeze(-1)
    total = weighted.sum(-2, keepdim=True)
    return member, torch.where(total > 0, weighted / torch.where(total > 0, total, torch.ones_like(total)), 0.0)


def _pair_bandwidth(distances: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return [G,K,K]: mean squared distance over ordered pairs i != j of the rows of x-class k and y-class l."""
    n = source.shape[1]
    within_x = torch.einsum("gik,gij,gjk->gk", source, distances[:, :n, :n], source)
    within_y = torch.einsum("gik,gij,gjk->gk", target, distances[:, n:, n:], target)
    across = source.mT @ distances[:, :n, n:] @ target
    count = source.sum(1).unsqueeze(-1) + target.sum(1).unsqueeze(-2)
    total = within_x.unsqueeze(-1) + within_y.unsqueeze(-2) + 2 * across
    return (total / (count * (count - 1)).clamp_min(1)).clamp_min(MIN_BANDWIDTH)


def _sample_level(
    distances: Tensor, weights: Tensor, bandwidth: Tensor | None, num_kernels: int, multiplier: float
) -> Tensor:
    rows = distances.shape[-1]
    if bandwidth is None:
        bandwidth = distances.detach().sum((-2, -1)) / max(rows * (rows - 1), 1)
    scale = bandwidth.to(distances.dtype).clamp_min(MIN_BANDWIDTH)[:, None, None]
    kernel = multi_kernel(distances, scale, num_kernels, multiplier)
    return torch.einsum("gi,gij,gj->g", weights, kernel, weights)


def _class_level(
    distances: Tensor,
    source: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    bandwidth: Tensor | None,
    num_kernels: int,
    multiplier: float,
) -> tuple[Tensor, Tensor]:
    (member_x, a), (member_y, b) = source, target
    n = a.shape[1]
    if bandwidth is None:
        bandwidth = _pair_bandwidth(distances.detach(), member_x, member_y)
    scale = bandwidth.to(distances.dtype).clamp_min(MIN_BANDWIDTH)
    # Bandwidths by row; a row of no class gets 1, so that nothing divides by 0, and has weight 0 below.
    of_x = member_x @ scale + (1 - member_x.sum(-1, keepdim=True))  # [G,N,K]: row i's class against each y class
    of_y = member_y @ scale.mT + (1 - member_y.sum(-1, keepdim=True))  # [G,M,K]
    of_pair = of_x @ member_y.mT + (1 - member_y.sum(-1)).unsqueeze(-2)  # [G,N,M]
    kernel_x = multi_kernel(distances[:, None, :n, :n], of_x.mT.unsqueeze(-1), num_kernels, multiplier)
    kernel_y = multi_kernel(distances[:, None, n:, n:], of_y.mT.unsqueeze(-1), num_kernels, multiplier)
    kernel_xy = multi_kernel(distances[:, :n, n:], of_pair, num_kernels, multiplier)
    within_x = (a.unsqueeze(1) * (kernel_x @ a.unsqueeze(1))).sum(-2).mT
    within_y = (b.unsqueeze(1) * (kernel_y @ b.unsqueeze(1))).sum(-2)
    valid = (a.sum(1) > 0).unsqueeze(-1) & (b.sum(1) > 0).unsqueeze(-2)
    value = within_x + within_y - 2 * (a.mT @ kernel_xy @ b)
    return torch.where(valid, value, torch.zeros_like(value)), valid


def alignment(
    x: Tensor,
    y: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    cx: Tensor | None,
    cy: Tensor | None,
    x_labels: Tensor | None,
    y_labels: Tensor | None,
    bandwidth: Tensor | None,
    class_bandwidth: Tensor | None,
    num_classes: int,
    num_kernels: int,
    multiplier: float,
) -> Alignment:
    """Sample- and class-level MMD of G groups on shared distances; arguments as in `fercore.ops.alignment_mmd`.

    Everything of y's side may come with Gy groups, G a multiple of Gy: group g meets entry g % Gy. Without wx the
    sample level is zero; without x_labels there is no class level.
    """
    groups = x.shape[0]
    y = y.repeat(groups // max(y.shape[0], 1), 1, 1)
    wy, cy, y_labels = (_repeat(t, groups) for t in (wy, cy, y_labels))
    # Any common shift leaves distances as they are; centred rows lose fewer digits in the Gram matrix.
    centre = (y if y.shape[1] else x).detach().sum(1, keepdim=True) / max(y.shape[1] or x.shape[1], 1)
    distances = squared_distances(torch.cat([x - centre, y - centre], 1))
    # Zero, yet connected to x and y.
    sample = distances.sum((-2, -1)) * 0
    if wx is not None and wy is not None:
        # With signs, all three terms of the MMD are one quadratic form w' K w.
        weights = torch.cat([wx, -wy], 1).to(x.dtype).detach()
        sample = _sample_level(distances, weights, bandwidth, num_kernels, multiplier)
    if x_labels is None or y_labels is None:
        empty = distances[:, :0, :0]
        return Alignment(sample, empty, empty.bool())
    source = class_weights(x_labels, None if cx is None else cx.detach().to(x.dtype), num_classes, x.dtype)
    target = class_weights(y_labels, None if cy is None else cy.detach().to(x.dtype), num_classes, x.dtype)
    value, valid = _class_level(distances, source, target, class_bandwidth, num_kernels, multiplier)
    return Alignment(sample, value, valid)


def _repeat(tensor: Tensor | None, groups: int) -> Tensor | None:
    if tensor is None or tensor.shape[0] == groups or tensor.shape[0] == 0:
        return tensor
    return tensor.repeat(groups // tensor.shape[0], *[1] * (tensor.dim() - 1))


def mpc(p: Tensor, q: Tensor, offdiag: bool) -> Tensor:
    """Mutual prediction consistency f[G] of p, q f[G,B,K] (LA-CMFER Eqs 10-11); row sums are at least 1e-12."""
    joint = p.mT @ q
    total = sum((_deviation(matrix, offdiag) for matrix in (joint, joint.mT)), joint.new_zeros(joint.shape[0]))
    return total / (2 * max(joint.shape[-1], 1))


def _deviation(matrix: Tensor, offdiag: bool) -> Tensor:
    rows = matrix.sum(-1, keepdim=True)
    # With the row's sign: logits may give negative sums, and a flip near 0 would turn the ratio.
    tiny = torch.where(rows < 0, -MIN_BANDWIDTH, MIN_BANDWIDTH).to(rows.dtype)
    ratio = matrix / torch.where(rows.abs() < MIN_BANDWIDTH, tiny, rows)
    trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1)
    if offdiag:
        return ratio.sum((-2, -1)) - trace
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return (ratio - eye).abs().sum((-2, -1))
