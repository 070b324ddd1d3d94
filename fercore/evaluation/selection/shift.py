"""Scores of a model by how far source and target lie apart in its features; higher is better.

Features that are collapsed in both domains have no distance at all: read these beside a score of the predictions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fercore.evaluation.selection.arrays import canonical_order, row_blocks

MOST = 2000
"""Rows of a domain that a kernel sees: more change the third digit, and the cost grows with the square."""


def mmd(source_features: np.ndarray, target_features: np.ndarray) -> float:
    """Return minus the squared MMD, Gaussian kernels of 2^-3..2^3 times the median squared distance (Gretton 2012)."""
    x, y = _some(source_features), _some(target_features)
    both = np.concatenate([x, y])
    square = (both**2).sum(axis=1)
    distances = np.maximum(square[:, None] + square[None] - 2 * both @ both.T, 0)
    width = float(np.median(distances[np.triu_indices(len(both), 1)])) if len(both) > 1 else 0.0
    if width <= 0:
        return 0.0
    weight = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    total = 0.0
    for rows in row_blocks(len(both)):
        kernels = sum(np.exp(-distances[rows] / (width * 2.0**e)) for e in range(-3, 4))
        total += float(weight[rows] @ kernels @ weight)
    return -total


def coral(source_features: np.ndarray, target_features: np.ndarray) -> float:
    """Return minus the squared distance of the covariances over 4 D^2 (Sun and Saenko, 2016); NaN for one sample."""
    if min(len(source_features), len(target_features)) < 2:
        return float("nan")
    first, second = (
        np.atleast_2d(np.cov(f.astype(np.float64), rowvar=False)) for f in (source_features, target_features)
    )
    return -float(((first - second) ** 2).sum() / (4 * len(first) ** 2))


def a_distance(source_features: np.ndarray, target_features: np.ndarray) -> float:
    """Return minus the proxy A-distance, -2(1 - 2 error) of a linear classifier of the domains (Ben-David, 2007).

    The error is that on odd rows of one trained on even rows, balanced over the domains, and 1/2 at most.
    """
    if min(len(source_features), len(target_features)) < 4:
        return float("nan")
    halves = [f[canonical_order(f)] for f in (source_features, target_features)]
    classify = _domain_classifier(halves[0][::2], halves[1][::2])
    wrong = [(classify(half[1::2]) > 0.5) != bool(domain) for domain, half in enumerate(halves)]
    return -2 * (1 - 2 * min(0.5, float(np.mean([w.mean() for w in wrong]))))


def dev(
    train_features: np.ndarray,
    source_features: np.ndarray,
    source_probs: np.ndarray,
    source_labels: np.ndarray,
    target_features: np.ndarray,
) -> float:
    """Return minus the risk of deep embedded validation (You et al., ICML 2019).

    Cross-entropy on held-out source, weighted by how much its features look like the target's to a logistic regression.
    Domains that share no support make the weights explode.
    """
    classify = _domain_classifier(train_features, target_features)
    share = np.clip(classify(source_features), 1e-6, 1 - 1e-6)
    weight = len(train_features) / len(target_features) * share / (1 - share)
    right = source_probs[np.arange(len(source_labels)), source_labels].astype(np.float64)
    return -dev_risk(weight, -np.log(np.maximum(right, 1e-12)))


def dev_risk(weight: np.ndarray, loss: np.ndarray) -> float:
    """Return mean(w l) + eta mean(w) - eta, eta = -cov(w l, w) / var(w): a mean of w l with less variance."""
    weighted = weight * loss
    variance = float(np.var(weight, ddof=1)) if len(weight) > 1 else 0.0
    eta = -float(np.cov(weighted, weight)[0, 1]) / variance if variance > 0 else 0.0
    return float(weighted.mean() + eta * weight.mean() - eta)


def _domain_classifier(source: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from features to the probability of the target's domain."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([source, target]).astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    model.fit(x, np.repeat([0, 1], [len(source), len(target)]))

    def of_target(features: np.ndarray) -> np.ndarray:
        shares: np.ndarray = model.predict_proba(features.astype(np.float64))[:, 1]
        return shares

    return of_target


def _some(features: np.ndarray) -> np.ndarray:
    """Return at most `MOST` rows, at even distances in an order that goes by content."""
    rows = canonical_order(features)
    keep = rows if len(rows) <= MOST else rows[np.linspace(0, len(rows) - 1, MOST).astype(np.int64)]
    rows_kept: np.ndarray = features[np.sort(keep)].astype(np.float64)
    return rows_kept
