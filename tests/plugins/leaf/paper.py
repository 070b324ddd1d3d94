"""LEAF's equations and the steps of its released code, literally, in NumPy float64; the reference of the tests."""

from __future__ import annotations

import itertools
import math

import numpy as np


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def cross_entropy(z, label):
    return float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[label])


def topk(values, k):
    """The k largest entries; of equal ones the first."""
    return sorted(range(len(values)), key=lambda j: (-values[j], j))[:k]


def eq3_gate(w, x, k):
    """softmax(TopK(softplus(w x))) of one sample."""
    scores = softplus(w @ x)
    kept = topk(scores, k)
    total = sum(math.exp(scores[j]) for j in kept)
    return np.array([math.exp(scores[j]) / total if j in kept else 0.0 for j in range(len(scores))])


def expert(kind, weights, biases, x):
    """One expert on one sample; weights are (inputs, outputs)."""
    if kind == "linear":
        return x @ weights[0] + biases[0]
    y = np.maximum(x @ weights[0] + biases[0], 0) @ weights[1] + biases[1]
    return y + x if kind == "residual" else y


def eq2_mixture(kind, w, weights, biases, x, k):
    """sum_j G(x)_j E_j(x), sample by sample and expert by expert; weights[layer][j]."""
    out = np.zeros_like(x)
    for i in range(len(x)):
        gate = eq3_gate(w, x[i], k)
        for j in range(len(w)):
            out[i] += gate[j] * expert(kind, [u[j] for u in weights], [b[j, 0] for b in biases], x[i])
    return out


def eq6_8(p, threshold):
    """Positive set of one distribution: add classes by falling probability until they reach the threshold."""
    chosen, total = [], 0.0
    for j in topk(p, len(p)):
        chosen.append(j)
        total += p[j]
        if total >= threshold:
            break
    return np.isin(np.arange(len(p)), chosen)


def smallest_sets(p, threshold):
    """Every set of classes that reaches the threshold and has the fewest members, by going through all subsets."""
    for size in range(1, len(p) + 1):
        found = [set(s) for s in itertools.combinations(range(len(p)), size) if sum(p[j] for j in s) >= threshold]
        if found:
            return found
    return [set(range(len(p)))]


def official_candidates(p, threshold, most=3):
    """topk_ce_FPL: the number that reaches the threshold less one, at least 1, at most 3."""
    ordered = topk(p, len(p))
    total, n = 0.0, 0
    while total < threshold and n < len(p):
        total += p[ordered[n]]
        n += 1
    m = min(max(n - 1, 1), most)
    return np.isin(np.arange(len(p)), ordered[:m]), m


def official_weight(p, m):
    ordered = topk(p, len(p))
    if m >= len(p):
        return 1.0
    c = sum(p[j] for j in ordered[: m + 1]) / (m + 1)
    q = p[ordered[m]]
    return min(math.log(1 + 50 * (c - q)) / math.log(1 + 50 * c), 1.0)


def eq14(s, positive, margin=0.0):
    """log(1 + sum exp(-s_i) sum exp(s_j) e^margin), as printed."""
    if positive.all() or not positive.any():
        return 0.0
    return math.log(1 + math.exp(margin) * np.exp(-s[positive]).sum() * np.exp(s[~positive]).sum())


def eq10(s, positive, margin=0.0):
    """ReLU(max of the negatives - min of the positives + margin)."""
    if positive.all():
        return 0.0
    return max(s[~positive].max() - s[positive].min() + margin, 0.0)


def eq1(labelled, labels, weak, strong, threshold=0.9, lambda_=1.0, margin=0.0, at=None):
    """The objective; candidates come from `at`, the constant strong logits."""
    supervised = np.mean([cross_entropy(z, y) for z, y in zip(labelled, labels, strict=True)])
    fixed = softmax(strong if at is None else at)
    values = [eq14(s, eq6_8(p, threshold), margin) for s, p in zip(weak, fixed, strict=True)]
    return supervised + lambda_ * np.mean(values)


def simclr(first, second, tau):
    """SupConLoss without labels over two views of each sample."""
    rows = np.concatenate([first, second])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    n, total = len(first), 0.0
    if n < 1:
        return 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [t for t in range(2 * n) if t != i]
        total -= rows[i] @ rows[j] / tau - math.log(sum(math.exp(rows[i] @ rows[t] / tau) for t in others))
    return total / (2 * n)


def official_step(labelled, labels, u, u2, strong, f, f2, thresholds, at=None):
    """Steps 2-9 of the released loop; returns (L_x, L_u, L_s). `at` = the constant (u, u2, strong, A's value)."""
    c_u, c_u2, c_s = (u, u2, strong) if at is None else at
    mean = (softmax(c_u) + softmax(c_u2)) / 2
    conf, lab = mean.max(1), mean.argmax(1)
    mask = conf >= thresholds[lab]
    l_x = np.mean([cross_entropy(z, y) for z, y in zip(labelled, labels, strict=True)])
    probs = softmax((c_u + c_u2) / 2)

    def weighted(scores):
        total = 0.0
        for i in range(len(scores)):
            positive, m = official_candidates(probs[i], 0.9)
            total += eq14(scores[i], positive) * official_weight(probs[i], m)
        return total / len(scores)

    hard = np.mean([cross_entropy(z, y) for z, y in zip(c_s, lab, strict=True)])
    now, fixed = weighted(strong), weighted(c_s)
    r = hard / fixed if fixed > 0 else 1.0
    l_u = np.mean([now * r * float(m) for m in mask])
    l_s = simclr(f[~mask], f2[~mask], 0.07) if (~mask).any() else 0.0
    return l_x, l_u, l_s


def official_thresholds(probs, labels, epoch, floor=0.8):
    levels = []
    for c in range(probs.shape[1]):
        right = [p.max() for p, y in zip(probs, labels, strict=True) if y == c and p.argmax() == c]
        levels.append(max(floor, np.mean(right) * 0.97 / (1 + math.exp(-epoch))) if right else floor)
    return np.array(levels)


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    slope = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        slope[place] = (function(up) - function(down)) / (2 * step)
    return slope
