"""MixVal: whether a model's own labels hold between images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

SHARE = 0.55

Mix: TypeAlias = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Predictions f[n,K] for share * first + (1 - share) * second, of target images by number."""


def mixval(target_probs: np.ndarray, target_mix: Mix) -> float:
    """Return how often 0.55 a + 0.45 b is given the class of a (Hu et al., NeurIPS 2023).

    The mean of two shares: over pairs whose predictions differ, and over pairs whose predictions are equal. A model
    that gives one class has no pair of the first kind: 0 there, so that collapse does not win.
    """
    labels = target_probs.argmax(axis=1)
    first = np.random.default_rng(0).permutation(len(labels))
    second = np.roll(first, 1)
    apart = labels[first] != labels[second]
    rates = [_kept(labels, first[apart], second[apart], target_mix)]
    grouped = first[np.argsort(labels[first], kind="stable")]
    second = np.roll(grouped, 1)
    same = (labels[grouped] == labels[second]) & (grouped != second)
    rates.append(_kept(labels, grouped[same], second[same], target_mix))
    return float(np.mean(rates))


def _kept(labels: np.ndarray, first: np.ndarray, second: np.ndarray, mix: Mix) -> float:
    return float((mix(first, second, SHARE).argmax(axis=1) == labels[first]).mean()) if len(first) else 0.0
