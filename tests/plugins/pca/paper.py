"""Equations 7 to 13 of PCA, sample by sample and class by class, in plain loops; float64."""

from __future__ import annotations

import math

import torch


def dot(a, b):
    total = torch.zeros((), dtype=torch.float64)
    for one, other in zip(a, b, strict=True):
        total = total + one * other
    return total


def norm(a):
    return torch.sqrt(dot(a, a))


def normalised(a):
    length = norm(a)
    return [one / length for one in a]


def sim(a, b):
    return dot(a, b) / (norm(a) * norm(b))


def softmax(scores):
    powers = [torch.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def equation_7(x, texts, s):
    return softmax([s * sim(x, text) for text in texts])


def cross_entropy(probs_of, labels):
    """Equations 8 and 12: the mean over the samples that have a label."""
    values = [-torch.log(probs[label]) for probs, label in zip(probs_of, labels, strict=True) if label >= 0]
    return sum(values) / len(values)


def linear(rows, layer):
    weight, bias = layer
    return [[dot(w, row) + b for w, b in zip(weight, bias, strict=True)] for row in rows]


def layer_norm(rows, scale, shift, eps=1e-5):
    out = []
    for row in rows:
        mean = sum(row) / len(row)
        variance = sum((x - mean) ** 2 for x in row) / len(row)
        out.append([g * (x - mean) / torch.sqrt(variance + eps) + b for x, g, b in zip(row, scale, shift, strict=True)])
    return out


def batch_norm(rows, scale, shift, eps=1e-5):
    columns = layer_norm(list(zip(*rows, strict=True)), [1.0] * len(rows), [0.0] * len(rows), eps)
    return [[g * x + b for x, g, b in zip(row, scale, shift, strict=True)] for row in zip(*columns, strict=True)]


def relu(rows):
    return [[torch.clamp(x, min=0) for x in row] for row in rows]


def equation_9(rows, f_pr, normalise):
    first, norm_1, second, norm_2, third = f_pr
    hidden = relu(normalise(linear(rows, first), *norm_1))
    hidden = relu(normalise(linear(hidden, second), *norm_2))
    wide = linear(hidden, third)
    d = len(wide[0]) // 3
    return [[row[part * d : (part + 1) * d] for row in wide] for part in range(3)]


def equation_10(queries, keys, values, f_po, eps):
    mixed = []
    for query in queries:
        attention = softmax([dot(query, key) / eps for key in keys])
        mixed.append([sum(a * value[i] for a, value in zip(attention, values, strict=True)) for i in range(len(query))])
    return linear(mixed, f_po)


def aligned(features, centres, f_pr, f_po, eps, normalise=layer_norm):
    """Equations 9 and 10 and the fusion: both halves of x' and their sum."""
    x = [normalised(row) for row in features]
    queries, _, _ = equation_9(x, f_pr, normalise)
    halves = []
    for domain in centres:
        _, keys, values = equation_9(domain, f_pr, normalise)
        enhanced = equation_10(queries, keys, values, f_po, eps)
        fused = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(x, enhanced, strict=True)]
        halves.append([normalised(row) for row in fused])
    summed = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(*halves, strict=True)]
    return halves, summed


def equation_13(cls, iga, first, second):
    return first * cls + second * iga


def bank(features, probs, labels, n, rule):
    """Section II-C by enumeration: class -> the positions of its features, most probable first."""
    found = {}
    for c in range(len(probs[0])):
        rows = []
        for i, row in enumerate(probs):
            predicted = max(range(len(row)), key=lambda k: row[k])
            wrong = labels[i] >= 0 and labels[i] != predicted
            if rule == "probability" or (predicted == c and not wrong):
                rows.append(i)
        found[c] = sorted(rows, key=lambda i: (-probs[i][c], i))[:n]
    return found


def centre(features, rows):
    return [math.fsum(features[i][k] for i in rows) / len(rows) for k in range(len(features[0]))]
