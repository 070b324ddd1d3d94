"""The methods' equations in literal NumPy, float64, one sample and one class at a time."""

from __future__ import annotations

import math

import numpy as np


def softmax(z):
    z = np.asarray(z, dtype=np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(z, y):
    """-log softmax(z)[y], without overflow."""
    z = np.asarray(z, dtype=np.float64)
    return math.log(np.exp(z - z.max()).sum()) + z.max() - z[y]


def soft_cross_entropy(z, p):
    return sum(p[k] * cross_entropy(z, k) for k in range(len(p)))


def labelled_loss(z, y):
    return float(np.mean([cross_entropy(row, label) for row, label in zip(z, y, strict=True)]))


def fixmatch(weak, strong, threshold):
    """Sohn et al. Eq 4."""
    total = 0.0
    for w, s in zip(weak, strong, strict=True):
        q = softmax(w)
        if q.max() >= threshold:
            total += cross_entropy(s, int(q.argmax()))
    return total / len(weak)


def soft_above(weak, strong, threshold, temperature):
    """Xie et al. section 2.3: KL's cross-entropy part with sharpened targets above a threshold."""
    total = 0.0
    for w, s in zip(weak, strong, strict=True):
        if softmax(w).max() >= threshold:
            total += soft_cross_entropy(s, softmax(np.asarray(w) / temperature))
    return total / len(weak)


def flexmatch_thresholds(learnt, classes, threshold, warmup):
    """Zhang et al. Eqs 5-6, 9-11."""
    counts = [sum(1 for c in learnt if c == k) for k in range(classes)]
    unused = sum(1 for c in learnt if c == -1)
    largest = max([*counts, unused] if warmup else counts)
    shares = [count / largest if largest else 0.0 for count in counts]
    return [threshold * beta / (2 - beta) for beta in shares]


def freematch_step(state, probs, momentum):
    """Wang et al. Eqs 5-8: returns the state after a batch and the thresholds."""
    level, means, histogram = state
    k = len(means)
    level = momentum * level + (1 - momentum) * float(np.mean([p.max() for p in probs]))
    means = [momentum * means[c] + (1 - momentum) * float(np.mean([p[c] for p in probs])) for c in range(k)]
    shares = [sum(1 for p in probs if p.argmax() == c) / len(probs) for c in range(k)]
    histogram = [momentum * histogram[c] + (1 - momentum) * shares[c] for c in range(k)]
    return (level, means, histogram), [level * m / max(means) for m in means]


def freematch_fairness(strong, selected, means, histogram):
    """Wang et al. Eq 11."""
    chosen = [softmax(z) for z, keep in zip(strong, selected, strict=True) if keep]
    if not chosen:
        return 0.0
    k = len(means)
    now = [np.mean([p[c] for p in chosen]) for c in range(k)]
    shares = [sum(1 for p in chosen if p.argmax() == c) / len(chosen) for c in range(k)]

    def by_share(mean, share):
        scaled = [m / s if s else 0.0 for m, s in zip(mean, share, strict=True)]
        return [x / sum(scaled) for x in scaled]

    goal, found = by_share(means, histogram), by_share(now, shares)
    return sum(a * math.log(b + 1e-12) for a, b in zip(goal, found, strict=True))


def softmatch_weight(confidence, mean, variance, sigmas):
    """Chen et al. Eq 6, with a deviation of sqrt(variance) / sigmas."""
    if confidence >= mean:
        return 1.0
    return math.exp(-((confidence - mean) ** 2) / (2 * variance / sigmas**2))


def aligned(p, seen, wanted):
    moved = [x * (w + 1e-6) / (s + 1e-6) for x, s, w in zip(p, seen, wanted, strict=True)]
    return np.array([x / sum(moved) for x in moved])


def adacm_thresholds(probs, labels, epoch, floor, scale, classes):
    """Li et al. Eqs 3-4."""
    found = []
    for c in range(classes):
        right = [p.max() for p, y in zip(probs, labels, strict=True) if y == c and p.argmax() == c]
        found.append(max(floor, np.mean(right) * scale / (1 + math.exp(-epoch))) if right else floor)
    return found


def mean_squared(z, p):
    return float(np.mean([(softmax(a) - b) ** 2 for a, b in zip(z, p, strict=True)]))


def sharpened(p, temperature):
    raised = np.asarray(p) ** (1 / temperature)
    return raised / raised.sum(-1, keepdims=True)


def simclr(first, second, tau):
    """Chen et al. 2020: NT-Xent over both views."""
    rows = [v / np.linalg.norm(v) for v in (*first, *second)]
    n, total = len(first), 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        below = sum(math.exp(rows[i] @ rows[j] / tau) for j in range(2 * n) if j != i)
        total -= math.log(math.exp(rows[i] @ rows[partner] / tau) / below)
    return total / (2 * n) if n > 1 else 0.0


def divergence(clean, z):
    p = softmax(clean)
    return float(np.mean([sum(row[k] * (math.log(row[k]) + cross_entropy(b, k)) for k in range(len(b)))
                          for row, b in zip(p, z, strict=True)]))  # fmt: skip
