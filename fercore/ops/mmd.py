"""Kernel MMD between groups of rows: sample level, class-pair level, and both in one pass over shared distances."""

from __future__ import annotations

from torch import Tensor

from fercore.ops import dispatch
from fercore.ops.checks import check_features, check_kernels, check_labels, check_rows, compute_type, expect
from fercore.ops.reference import Alignment


def weighted_mmd(
    x: Tensor,
    y: Tensor,
    wx: Tensor,
    wy: Tensor,
    *,
    num_kernels: int = 5,
    multiplier: float = 2.0,
    bandwidth: Tensor | None = None,
) -> Tensor:
    """Weighted squared MMD of each group (LA-CMFER Eqs 5-6 in kernel form, its mixture of Gaussians).

    value = sum wx wx k(x,x) + sum wy wy k(y,y) - 2 sum wx wy k(x,y),
    k = sum over q of exp(-||u-v||^2 / (s * multiplier^(q - num_kernels//2))), q = 0..num_kernels-1.

    Args:
        x: f[G,N,D]; 2-D inputs drop G everywhere and give a scalar. half and bfloat16 compute in (and return) float32.
        y: f[G,M,D], or f[Gy,M,D] shared between groups: group g meets y[g % Gy].
        wx: f[G,N], constant weights.
        wy: f[G,M] (or [Gy,M]), constant weights.
        num_kernels: Gaussians in the mixture, 1..16.
        multiplier: ratio of neighbouring bandwidths; 2 costs one exponential a pair.
        bandwidth: f[G], s above; default: mean squared distance over all ordered pairs i != j of the group's N+M rows,
            detached. At least 1e-12 either way.

    Returns:
        f[G], differentiable with respect to x and y.

    Raises:
        OpArgumentError: the shapes, types or devices do not fit together.
    """
    if x.dim() == 2:
        expect(bandwidth is None or bandwidth.numel() == 1, "bandwidth must be one number where x has no groups")
        scalar = None if bandwidth is None else bandwidth.reshape(1)
        one = weighted_mmd(
            x[None], y[None], wx[None], wy[None], num_kernels=num_kernels, multiplier=multiplier, bandwidth=scalar
        )
        return one[0]
    return _align(x, y, wx, wy, None, None, None, None, bandwidth, None, 0, num_kernels, multiplier).sample


def class_mmd(
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
    """Squared MMD between the x of class k and the y of class l, for all pairs (LA-CMFER Eqs 7-8, all-pairs form).

    Each pair has a bandwidth of its own: the mean squared distance over ordered pairs i != j of both classes' rows.

    Args:
        x: f[G,N,D]; 2-D inputs drop G everywhere.
        y: f[G,M,D], or f[Gy,M,D] shared between groups: group g meets y[g % Gy].
        x_labels: int[G,N]; a label outside 0..K-1 (-1 = unknown) takes no part.
        y_labels: int[G,M] (or [Gy,M]).
        num_classes: K.
        wx: f[G,N] or None (uniform); normalised to sum 1 inside each class; a class of zero weight is empty.
        wy: f[G,M] (or [Gy,M]) or None.
        num_kernels: Gaussians in the mixture, 1..16.
        multiplier: ratio of neighbouring bandwidths.

    Returns:
        value f[G,K,K], 0 where not valid; valid bool[G,K,K]: both classes have a sample.

    Raises:
        OpArgumentError: the shapes, types or devices do not fit together.
    """
    if x.dim() == 2:
        weights = [None if w is None else w[None] for w in (wx, wy)]
        value, valid = class_mmd(
            x[None], y[None], x_labels[None], y_labels[None], num_classes,
            wx=weights[0], wy=weights[1], num_kernels=num_kernels, multiplier=multiplier,
        )  # fmt: skip
        return value[0], valid[0]
    result = _align(x, y, None, None, wx, wy, x_labels, y_labels, None, None, num_classes, num_kernels, multiplier)
    return result.value, result.valid


def alignment_mmd(
    x: Tensor,
    y: Tensor,
    wx: Tensor,
    wy: Tensor,
    x_labels: Tensor,
    y_labels: Tensor,
    num_classes: int,
    *,
    cx: Tensor | None = None,
    cy: Tensor | None = None,
    num_kernels: int = 5,
    multiplier: float = 2.0,
    bandwidth: Tensor | None = None,
    class_bandwidth: Tensor | None = None,
) -> Alignment:
    """`weighted_mmd` and `class_mmd` of all groups in one pass that computes the distances once.

    A step's groups are sources x branches with the target shared between the sources: x f[S*Br,N,D] with the branch
    as the faster index, y f[Br,M,D]; group g meets y[g % Br], and nothing of y is copied. wy, cy and y_labels may come
    once for a branch, [Br,M], or once for a group, [S*Br,M].

    Args:
        x: f[G,N,D].
        y: f[Gy,M,D], G a multiple of Gy.
        wx: f[G,N], sample-level weights (constants).
        wy: f[G,M] or [Gy,M].
        x_labels: int[G,N]; a label outside 0..K-1 takes no part in the class level.
        y_labels: int[G,M] or [Gy,M].
        num_classes: K.
        cx: f[G,N], class-level weights, normalised to 1 inside each class; None = uniform.
        cy: f[G,M] or [Gy,M].
        num_kernels: Gaussians in the mixture, 1..16.
        multiplier: ratio of neighbouring bandwidths.
        bandwidth: f[G], fixed sample-level bandwidth; default as in `weighted_mmd`.
        class_bandwidth: f[G,K,K], fixed bandwidths of the pairs; default as in `class_mmd`.

    Returns:
        sample f[G], value f[G,K,K], valid bool[G,K,K].

    Raises:
        OpArgumentError: the shapes, types or devices do not fit together.
    """
    return _align(
        x, y, wx, wy, cx, cy, x_labels, y_labels, bandwidth, class_bandwidth, num_classes, num_kernels, multiplier
    )


def _align(
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
    check_features(x, y)
    check_kernels(num_kernels, multiplier)
    expect(num_classes >= 0, f"num_classes must not be negative, got {num_classes}")
    dtype, groups = compute_type(x, y), x.shape[0]
    wx = check_rows("wx", wx, x, groups, shared=False)
    cx = check_rows("cx", cx, x, groups, shared=False)
    wy = check_rows("wy", wy, y, groups, shared=True)
    cy = check_rows("cy", cy, y, groups, shared=True)
    x_labels = check_labels("x_labels", x_labels, x, groups, shared=False)
    y_labels = check_labels("y_labels", y_labels, y, groups, shared=True)
    _check_bandwidth("bandwidth", bandwidth, x, [groups])
    _check_bandwidth("class_bandwidth", class_bandwidth, x, [groups, num_classes, num_classes])
    floats = [None if t is None else t.detach().to(dtype) for t in (wx, wy, cx, cy, bandwidth, class_bandwidth)]
    return dispatch.alignment(
        x.to(dtype), y.to(dtype), *floats[:4], x_labels, y_labels, *floats[4:], num_classes, num_kernels, multiplier
    )


def _check_bandwidth(name: str, bandwidth: Tensor | None, x: Tensor, shape: list[int]) -> None:
    if bandwidth is not None:
        expect(list(bandwidth.shape) == shape, f"{name} must be {shape}, got {list(bandwidth.shape)}")
        expect(bandwidth.device == x.device, f"{name} must be on {x.device}, got {bandwidth.device}")
