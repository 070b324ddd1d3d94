"""POCAN (ACCV 2022) equation by equation, in slow NumPy float64, written from the paper."""

from __future__ import annotations

import numpy as np


def unit(v):
    return v / max(float(np.sqrt((v**2).sum())), 1e-12)


def cosine(u, v):
    return float(unit(u) @ unit(v))


def eq1(views, tau):
    """InfoNCE: views [B][2] of vectors; the mean over all 2B views."""
    flat = [(i, v) for i, pair in enumerate(views) for v in pair]
    total = 0.0
    for a, (i, z) in enumerate(flat):
        below = sum(np.exp(cosine(z, w) / tau) for b, (_, w) in enumerate(flat) if b != a)
        partner = next(w for b, (j, w) in enumerate(flat) if j == i and b != a)
        total += -np.log(np.exp(cosine(z, partner) / tau) / below)
    return total / len(flat) if flat else 0.0


def eq4(views, labels, tau):
    """Supervised contrastive loss; the mean over anchors with a positive."""
    flat = [(i, v) for i, group in enumerate(views) for v in group]
    values = []
    for a, (i, z) in enumerate(flat):
        rest = [(j, w) for b, (j, w) in enumerate(flat) if b != a]
        positives = [w for j, w in rest if j == i or (labels[j] == labels[i] and labels[i] >= 0)]
        if not positives:
            continue
        below = sum(np.exp(cosine(z, w) / tau) for _, w in rest)
        values.append(-sum(np.log(np.exp(cosine(z, w) / tau) / below) for w in positives) / len(positives))
    return sum(values) / len(values) if values else 0.0


def similarity(z, prototypes):
    """Section 3.1's P of one sample."""
    scores = [np.exp(float(mu @ z)) for mu in prototypes]
    return np.array([s / sum(scores) for s in scores])


def eq2(z, prototypes, labels, weights=None, mask=None):
    """Weighted cross-entropy, divided by the number of samples that take part (Eqs 2, 3, 8)."""
    total, n = 0.0, 0
    for i in range(len(z)):
        if mask is not None and not mask[i]:
            continue
        w = 1.0 if weights is None else weights[labels[i]]
        total += -w * np.log(similarity(z[i], prototypes)[labels[i]])
        n += 1
    return total / n if n else 0.0


def alphas(z, source, target):
    """Section 3.4's domain scores of one sample."""
    q = similarity(z, np.concatenate([source, target]))
    return q[: len(source)].sum(), q[len(source) :].sum()


def eq10(z_s, z_t, source, target):
    own = -sum(np.log(alphas(z, source, target)[0]) for z in z_s) / len(z_s)
    return own - sum(np.log(alphas(z, source, target)[1]) for z in z_t) / len(z_t)


def eq11(z_s, z_t, source, target):
    other = -sum(np.log(alphas(z, source, target)[0]) for z in z_t) / len(z_t)
    return other - sum(np.log(alphas(z, source, target)[1]) for z in z_s) / len(z_s)


def eq13(counts):
    total = sum(counts)
    return [1 - (n / total) ** 2 if total else 1.0 for n in counts]


def eq14(confidence, predicted, num_classes, beta):
    out = []
    for c in range(num_classes):
        mine = [q for q, k in zip(confidence, predicted, strict=True) if k == c]
        if not mine:
            out.append(np.inf)
            continue
        avg, top = sum(mine) / len(mine), max(mine)
        out.append(avg + (top - avg) * (1 - avg**beta))
    return out


def ramp(p):
    return 2 / (1 + np.exp(-10 * p)) - 1


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    out = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        out[at] = (function(up) - function(down)) / (2 * step)
    return out
