"""The equations of the README of steady, one sample and one class at a time, in float64 and without torch's losses."""

from __future__ import annotations

import math

import numpy as np


def softmax(z):
    out = []
    for row in z:
        powers = [math.exp(value - max(row)) for value in row]
        out.append([power / sum(powers) for power in powers])
    return np.array(out)


def cross_entropy(z, labels, weight=None):
    p = softmax(z)
    return sum(-(1 if weight is None else weight[i]) * math.log(p[i][k]) for i, k in enumerate(labels)) / len(labels)


def entropy(z):
    p = softmax(z)
    return sum(-value * math.log(value) for row in p for value in row) / len(p)


def divergence(z, q):
    mean = softmax(z).mean(0)
    return sum(m * (math.log(m) - math.log(share)) for m, share in zip(mean, q, strict=True))


def confusion(z, temperature):
    p = softmax(np.asarray(z) / temperature)
    n, k = p.shape
    sure = [1 + math.exp(sum(value * math.log(value) for value in row)) for row in p]
    c = [[sum(sure[i] * p[i][a] * p[i][b] for i in range(n)) for b in range(k)] for a in range(k)]
    return sum(c[a][b] / sum(c[a]) for a in range(k) for b in range(k) if a != b) / k


def agreement(first, second):
    p, q = softmax(first), softmax(second)
    k = p.shape[1]
    c = [[sum(p[i][a] * q[i][b] for i in range(len(p))) for b in range(k)] for a in range(k)]
    total = 0.0
    for matrix in (c, [list(column) for column in zip(*c, strict=True)]):
        for a in range(k):
            total += sum(abs(matrix[a][b] / sum(matrix[a]) - (a == b)) for b in range(k))
    return total / (2 * k)


class Confidences:
    """The running means, and the three rules of what a label counts."""

    def __init__(self, k):
        self.level, self.probs, self.mean, self.variance = 1 / k, [1 / k] * k, [1 / k] * k, [1.0] * k

    def weigh(self, p, momentum, trust, threshold):
        k, top, labels = p.shape[1], p.max(1), p.argmax(1)
        self.level = momentum * self.level + (1 - momentum) * sum(top) / len(top)
        for c in range(k):
            self.probs[c] = momentum * self.probs[c] + (1 - momentum) * sum(p[:, c]) / len(p)
            own = [t for t, label in zip(top, labels, strict=True) if label == c]
            if own:
                mean = sum(own) / len(own)
                self.mean[c] = momentum * self.mean[c] + (1 - momentum) * mean
                spread = sum((t - mean) ** 2 for t in own) / len(own)
                self.variance[c] = momentum * self.variance[c] + (1 - momentum) * spread
        if trust == "fixed":
            return [float(t >= threshold) for t in top]
        if trust == "adaptive":
            return [float(t >= self.level * self.probs[c] / max(self.probs)) for t, c in zip(top, labels, strict=True)]
        below = [min(t - self.mean[c], 0) for t, c in zip(top, labels, strict=True)]
        return [math.exp(-4 * b**2 / (2 * self.variance[c])) for b, c in zip(below, labels, strict=True)]


def shares(p, source, trust, rounds=50):
    q = list(source)
    for _ in range(rounds):
        joint = [[row[c] / source[c] * q[c] for c in range(len(q))] for row in p]
        q = [sum(row[c] / sum(row) for row in joint) / len(joint) for c in range(len(q))]
    return [trust * mine + (1 - trust) * known for mine, known in zip(q, source, strict=True)]
