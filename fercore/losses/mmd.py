"""Sample weights and reductions around the MMD ops (LA-CMFER, ACM MM 2024, Eqs 1-9).

Every function takes leading group dimensions "..." where its shapes say so. Weights are constants: nothing here lets a
gradient pass through a hardness weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fercore.ops import weighted_mmd


def remaining_norm(probs: Tensor, labels: Tensor | None = None) -> Tensor:
    """L2 norm of what is left of a prediction without one class (LA-CMFER Eq 3).

    Args:
        probs: f[...,B,K] class probabilities.
        labels: int64[...,B] class left out, the true one on the source; None, or a label of -1 = the largest.

    Returns:
        f[...,B] >= 0, detached.
    """
    probs = probs.detach()
    kept = probs.scatter(-1, _left_out(probs, labels).unsqueeze(-1), 0.0)
    norm: Tensor = torch.linalg.vector_norm(kept, dim=-1)
    return norm


def logit_square(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean over classes of squared logits, the label's lowered by the largest (released code, `get_weight`).

    Args:
        logits: f[...,B,K].
        labels: int64[...,B]; None, or a label of -1 = the largest.

    Returns:
        f[...,B] >= 0, detached: ((sum over j != y of z_j^2) + (z_y - max z)^2) / K.
    """
    logits = logits.detach()
    index = _left_out(logits, labels).unsqueeze(-1)
    lowered = logits.gather(-1, index) - logits.amax(-1, keepdim=True)
    return logits.scatter(-1, index, lowered).square().mean(-1)


def _left_out(scores: Tensor, labels: Tensor | None) -> Tensor:
    largest = scores.argmax(-1)
    return largest if labels is None else torch.where(labels < 0, largest, labels)


def normalise_weights(raw: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scale weights to sum 1, after masking (LA-CMFER Eq 4).

    Args:
        raw: f[...,B] >= 0.
        mask: bool or float [...,B]; None = every sample.

    Returns:
        f[...,B], each row summing to 1, or all 0 where nothing is left; detached.
    """
    kept = raw.detach() if mask is None else raw.detach() * mask.detach().to(raw.dtype)
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / torch.where(total > 0, total, torch.ones_like(total)), torch.zeros_like(kept))


def hardness_weights(probs: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Relative hardness H of the samples of a domain batch (LA-CMFER Eqs 3-4).

    Args:
        probs: f[...,B,K] class probabilities of one branch.
        labels: int64[...,B] true classes of a source; None (target) = the class of the largest probability.
        mask: bool or float [...,B] of reliable samples; None = all.

    Returns:
        f[...,B], each row summing to 1, or all 0 where no sample is reliable; detached.
    """
    return normalise_weights(remaining_norm(probs, labels), mask)


def plain_mmd(x: Tensor, y: Tensor, *, num_kernels: int = 5, multiplier: float = 2.0) -> Tensor:
    """Squared MMD with uniform weights (LA-CMFER Eqs 1-2).

    Args:
        x: f[G,N,D] or f[N,D]. y: f[G,M,D] or f[M,D].
        num_kernels, multiplier: the mixture of Gaussians of `fercore.ops.weighted_mmd`.

    Returns:
        f[G] or a scalar.
    """
    wx, wy = (torch.full_like(rows[..., 0].detach(), 1.0 / rows.shape[-2], dtype=_wide(rows)) for rows in (x, y))
    return weighted_mmd(x, y, wx, wy, num_kernels=num_kernels, multiplier=multiplier)


def sample_mmd(
    x: Tensor, y: Tensor, wx: Tensor, wy: Tensor, *, num_kernels: int = 5, multiplier: float = 2.0
) -> Tensor:
    """Squared MMD of weighted samples, 0 where either side has no weight (LA-CMFER Eqs 5-6).

    Args:
        x: f[G,N,D] or f[N,D]. y: f[G,M,D] or f[M,D].
        wx: f[G,N] or f[N], wy: f[G,M] or f[M]: weights as of `hardness_weights`.
        num_kernels, multiplier: the mixture of Gaussians of `fercore.ops.weighted_mmd`.

    Returns:
        f[G] or a scalar, always connected to x and y.
    """
    value = weighted_mmd(x, y, wx, wy, num_kernels=num_kernels, multiplier=multiplier)
    return value * ((wx.sum(-1) > 0) & (wy.sum(-1) > 0)).to(value.dtype)


def pair_contrast(value: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance of equal classes less that of different classes (LA-CMFER Eqs 7-8 over all class pairs).

    Args:
        value: f[G,K,K] class-pair MMD of `fercore.ops.class_mmd`. valid: bool[G,K,K].

    Returns:
        f[G], and bool[G]: a group has a pair of each kind; the value is 0 where not.
    """
    eye = torch.eye(value.shape[-1], dtype=torch.bool, device=value.device)
    near, far = valid & eye, valid & ~eye
    counts = [which.sum((-2, -1)) for which in (near, far)]
    means = [
        (value * which.to(value.dtype)).sum((-2, -1)) / count.clamp_min(1)
        for which, count in zip((near, far), counts, strict=True)
    ]
    alive = (counts[0] > 0) & (counts[1] > 0)
    return (means[0] - means[1]) * alive.to(value.dtype), alive


def rest_mmd(
    x: Tensor,
    y: Tensor,
    x_labels: Tensor,
    y_labels: Tensor,
    num_classes: int,
    *,
    wx: Tensor | None = None,
    wy: Tensor | None = None,
    num_kernels: int = 5,
    multiplier: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Squared MMD between the x of class k and the y of every other class (second part of LA-CMFER Eq 7).

    Args:
        x: f[G,N,D]. y: f[G,M,D].
        x_labels: int64[G,N], y_labels: int64[G,M]; -1 takes no part.
        num_classes: K.
        wx: f[G,N], wy: f[G,M]: weights, scaled to sum 1 in each group of rows; None = uniform.
        num_kernels, multiplier: the mixture of Gaussians; each k has a bandwidth of its own, over its rows alone.

    Returns:
        f[G,K], 0 where not valid; bool[G,K]: both groups of rows have weight.
    """
    classes = torch.arange(num_classes, device=x.device)
    of_class = x_labels.unsqueeze(1) == classes[:, None]
    of_rest = (y_labels.unsqueeze(1) != classes[:, None]) & (y_labels >= 0).unsqueeze(1)
    left = normalise_weights(of_class.to(x.dtype) if wx is None else of_class * wx.to(x.dtype).unsqueeze(1))
    right = normalise_weights(of_rest.to(x.dtype) if wy is None else of_rest * wy.to(x.dtype).unsqueeze(1))
    bandwidth = _bandwidth(torch.cat([x, y], 1).detach(), torch.cat([of_class, of_rest], 2).to(x.dtype))
    value = weighted_mmd(
        x.repeat_interleave(num_classes, 0),
        y.repeat_interleave(num_classes, 0),
        left.flatten(0, 1),
        right.flatten(0, 1),
        num_kernels=num_kernels,
        multiplier=multiplier,
        bandwidth=bandwidth.flatten(),
    ).view(left.shape[:2])
    valid = (left.sum(-1) > 0) & (right.sum(-1) > 0)
    return value * valid.to(value.dtype), valid


def _wide(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def _bandwidth(rows: Tensor, member: Tensor) -> Tensor:
    """Mean squared distance [G,K] over ordered pairs i != j of the rows [G,n,D] that member [G,K,n] picks."""
    rows = rows - rows.mean(1, keepdim=True)
    squares = rows.square().sum(-1)
    distances = (squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * rows @ rows.mT).clamp_min(0)
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    count = member.sum(-1)
    return torch.einsum("gki,gij,gkj->gk", member, distances, member) / (count * (count - 1)).clamp_min(1)


def domain_mean(values: Tensor, domain: Tensor) -> Tensor:
    """Mean over the samples of each domain, then over the domains present (LA-CMFER Eq 13).

    Args:
        values: f[B]. domain: int64[B], 0-based.

    Returns:
        Scalar.
    """
    counts = torch.bincount(domain)
    weight = 1.0 / (counts[domain] * (counts > 0).sum()).to(values.dtype)
    return (values * weight).sum()
