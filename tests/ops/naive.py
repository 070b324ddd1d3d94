"""The ops written literally from their definitions, in NumPy float64, one pair at a time."""

from __future__ import annotations

import numpy as np


def kernel(u, v, scale, num_kernels=5, multiplier=2.0):
    distance = float(((u - v) ** 2).sum())
    return sum(np.exp(-distance / (scale * multiplier ** (q - num_kernels // 2))) for q in range(num_kernels))


def mean_distance(rows):
    n = len(rows)
    total = sum(float(((rows[i] - rows[j]) ** 2).sum()) for i in range(n) for j in range(n) if i != j)
    return max(total / max(n * n - n, 1), 1e-12)


def double_sum(u, v, wu, wv, scale, **options):
    return sum(wu[i] * wv[j] * kernel(u[i], v[j], scale, **options) for i in range(len(u)) for j in range(len(v)))


def mmd(x, y, wx, wy, bandwidth=None, **options):
    scale = mean_distance(np.concatenate([x, y])) if bandwidth is None else max(bandwidth, 1e-12)
    return (
        double_sum(x, x, wx, wx, scale, **options)
        + double_sum(y, y, wy, wy, scale, **options)
        - 2 * double_sum(x, y, wx, wy, scale, **options)
    )


def class_mmd(x, y, x_labels, y_labels, num_classes, wx=None, wy=None, **options):
    wx = np.ones(len(x)) if wx is None else wx
    wy = np.ones(len(y)) if wy is None else wy
    value = np.zeros((num_classes, num_classes))
    valid = np.zeros((num_classes, num_classes), bool)
    for k in range(num_classes):
        for label in range(num_classes):
            a, b = x_labels == k, y_labels == label
            if wx[a].sum() > 0 and wy[b].sum() > 0:
                valid[k, label] = True
                value[k, label] = mmd(x[a], y[b], wx[a] / wx[a].sum(), wy[b] / wy[b].sum(), **options)
    return value, valid


def mpc(p, q, form="abs"):
    joint = p.T @ q
    classes = len(joint)
    total = 0.0
    for matrix in (joint, joint.T):
        ratio = matrix / matrix.sum(1, keepdims=True)
        total += np.abs(ratio - np.eye(classes)).sum() if form == "abs" else ratio.sum() - np.trace(ratio)
    return total / (2 * classes)
