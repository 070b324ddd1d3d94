"""Steps that scores share, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def softmax(values: np.ndarray) -> np.ndarray:
    """Return the softmax of every row."""
    z = values.astype(np.float64)
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    probs: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probs


def entropies(probs: np.ndarray) -> np.ndarray:
    """Return the entropy of every row, in nats; 0 ln 0 = 0."""
    p = probs.astype(np.float64)
    nats: np.ndarray = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    return nats


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return the rows at length 1; a row of zeros stays."""
    rows = values.astype(np.float64)
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def shares_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return f[K], the share of each class."""
    shares: np.ndarray = np.bincount(labels, minlength=classes) / max(1, len(labels))
    return shares


def canonical_order(features: np.ndarray) -> np.ndarray:
    """Return an order of the rows that goes by their content, so that what draws from them does not go by theirs."""
    direction = np.cos(np.arange(1, features.shape[1] + 1, dtype=np.float64))
    return np.argsort(features.astype(np.float64) @ direction, kind="stable")


def row_blocks(n: int, size: int = 1024) -> Iterator[slice]:
    """Yield slices of at most `size` rows: no N x N matrix is ever whole."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
