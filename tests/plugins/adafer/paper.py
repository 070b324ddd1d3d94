"""AdaFER's objective in literal NumPy, float64, sample by sample: L_all = L_c + epsilon L_tri (Eqs 3 and 4)."""

from __future__ import annotations

import math

import numpy as np


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def cross_entropy(z, labels):
    """Mean over the samples with a label."""
    kept = [-math.log(softmax(row)[k]) for row, k in zip(z, labels, strict=True) if k >= 0]
    return sum(kept) / len(kept) if kept else 0.0


def divergence(z, q, labelled, direction="q_p"):
    total, count = 0.0, 0
    for row, shares, used in zip(z, q, labelled, strict=True):
        if used:
            count += 1
            p = softmax(row)
            for pk, qk in zip(p, shares, strict=True):
                if direction == "q_p" and qk > 0:
                    total += qk * (math.log(qk) - math.log(pk))
                if direction == "p_q":
                    total += pk * (math.log(pk) - math.log(max(qk, 1e-8)))
    return total / max(1, count)


def eq4(triplets, gamma):
    """Triplets are (anchor, positive, negative) rows."""
    total = 0.0
    for rows in triplets:
        a, p, n = (row / max(math.sqrt(row @ row), 1e-12) for row in rows)
        total += max(0.0, gamma - (math.sqrt((a - n) @ (a - n) + 1e-12) - math.sqrt((a - p) @ (a - p) + 1e-12)))
    return total / len(triplets) if len(triplets) else 0.0
