"""Sample weights and reductions around the MMD ops (LA-CMFER, ACM MM 2024, Eqs 1-9; DAN, JAN, DSAN).

Every function takes leading group dimensions "..." where its shapes say so. Weights are constants: nothing here lets a
gradient pass through a hardness weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    # With the weights of one side all 0 the formula leaves the other's self-similarity, which is no distance.
    value = weighted_mmd(x, y, wx, wy, num_kernels=num_kernels, multiplier=multiplier)
    return value * ((wx.sum(-1) > 0) & (wy.sum(-1) > 0)).to(value.dtype)


def linear_mmd(x: Tensor, y: Tensor, *, num_kernels: int = 5, multiplier: float = 2.0) -> Tensor:
    """Squared MMD from neighbours alone, an unbiased estimate in linear time (DAN, Long et al., ICML 2015, Eq 5).

    mean over i of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), j = i + 1 in a ring; may be negative.

    Args:
        x: f[B,D]. y: f[M,D]; the longer side is cut to the length of the other.
        num_kernels, multiplier: the mixture of Gaussians of `fercore.ops.weighted_mmd`.

    Returns:
        Scalar; 0, still connected to the features, for fewer than two pairs.
    """
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    if n < 2:
        # Connected, not a new zero: the term can be differentiated like any other.
        return 0 * (x.sum() + y.sum())
    rows = torch.cat([x, y]).detach()
    # The mean squared distance over pairs, as the ops have it; the floor is for equal rows.
    bandwidth = torch.pdist(rows).square().mean().clamp_min(1e-12)
    scales = bandwidth * multiplier ** (torch.arange(num_kernels, device=x.device) - num_kernels // 2).to(x.dtype)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a - b).square().sum(1)[:, None] / scales).exp().sum(1)

    ahead, further = x.roll(-1, 0), y.roll(-1, 0)
    return (kernel(x, ahead) + kernel(y, further) - kernel(x, further) - kernel(ahead, y)).mean()


def joint_mmd(
    x: tuple[Tensor, Tensor],
    y: tuple[Tensor, Tensor],
    wx: Tensor,
    wy: Tensor,
    *,
    sigma: float = 0.92,
    num_kernels: int = 5,
    multiplier: float = 2.0,
) -> Tensor:
    """Squared MMD of features and predictions, by the product of their kernels (JAN, Long et al., ICML 2017, Eq 9).

    The features' kernel is the mixture of `plain_mmd`, the predictions' one Gaussian exp(-d^2 / (2 sigma^2)). A product
    of Gaussians is a Gaussian of both, scaled and side by side, so each of the mixture is a group of one call.

    Args:
        x: f[B,D] and f[B,K]. y: f[M,D] and f[M,K]. wx: f[B], wy: f[M]: constant weights that sum to 1.
        sigma: of the predictions' kernel. num_kernels, multiplier: of the features'.

    Returns:
        Scalar.
    """
    bandwidth = torch.pdist(torch.cat([x[0], y[0]]).detach()).square().mean().clamp_min(1e-12)
    steps = torch.arange(num_kernels, device=wx.device) - num_kernels // 2
    # Rows divided by the root of a bandwidth have squared distances in its unit: the op then runs at bandwidth 1.
    roots = (bandwidth * multiplier ** steps.to(bandwidth.dtype)).rsqrt()
    left, right = (
        torch.cat([roots[:, None, None] * f, (p / (2**0.5 * sigma)).expand(num_kernels, -1, -1)], 2) for f, p in (x, y)
    )
    ones, weights = torch.ones_like(roots), [w.expand(num_kernels, -1) for w in (wx, wy)]
    return weighted_mmd(left, right, *weights, num_kernels=1, bandwidth=ones).sum()


def local_mmd(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    probs: Tensor,
    wx: Tensor | None = None,
    *,
    num_kernels: int = 5,
    multiplier: float = 2.0,
) -> Tensor:
    """Mean over classes of the squared MMD between the samples of each (DSAN, Zhu et al., TNNLS 2021, Eqs 4-6).

    The source counts by its labels, the target by its probabilities, either scaled to sum 1 within a class; the classes
    are those that the labels hold and that are predicted of some target sample. One bandwidth serves all.

    Args:
        x: f[B,D]. y: f[M,D]. labels: int64[B]. probs: f[M,K] of y; constants. wx: f[B], None = uniform.
        num_kernels, multiplier: the mixture of Gaussians of `fercore.ops.weighted_mmd`.

    Returns:
        Scalar; 0, still connected to the features, where no class is in both.
    """
    num_classes = probs.shape[1]
    probs = probs.detach()
    member = F.one_hot(labels, num_classes).to(probs.dtype).T
    left = normalise_weights(member if wx is None else member * wx)
    right = normalise_weights(probs.T)
    # By predicted classes, not by probabilities, of which every class has some.
    shared = (left.sum(1) > 0) & (torch.bincount(probs.argmax(1), minlength=num_classes) > 0)
    every = x.expand(num_classes, -1, -1)
    value = weighted_mmd(every, y[None], left, right, num_kernels=num_kernels, multiplier=multiplier)
    return (value * shared).sum() / shared.sum().clamp_min(1)


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
    # Distances do not change, but the Gram form below loses fewer digits with rows near the origin.
    rows = rows - rows.mean(1, keepdim=True)
    squares = rows.square().sum(-1)
    distances = (squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * rows @ rows.mT).clamp_min(0)
    # Rounding leaves the diagonal near 0, not at it.
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
    # Every domain present counts alike, whatever its share of the batch: 1 / (n_d * domains).
    weight = 1.0 / (counts[domain] * (counts > 0).sum()).to(values.dtype)
    return (values * weight).sum()
