"""Scores with intervals, from counts: one table of them for a model, and paired differences between models.

Everything is a function of sums over units (people where they are known, else images), so that a bootstrap over units
is one product of its weights with those sums: Efron and Tibshirani, 1993, chapters 8 (units) and 13 (percentiles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fercore.records.result import SCORES

MEASURES: Final[Mapping[str, str]] = {**{str(name): text for name, text in SCORES.items()}, "ece": "ECE"}
"""Measure -> what tables call it; of the last, less is better."""
BINS = 15
"""Bins of equal width of the calibration error (Guo et al., ICML 2017, equation 3)."""
LEVEL = 0.95
REPLICATES = 2000
CHUNK = 100
"""Replicates that are worked out together."""


@dataclass(frozen=True)
class Sums:
    """What scores are made of, by unit.

    Attributes:
        confusion: f[U,K,K], rows are the truth. calibration: f[U,BINS,3]: samples, right answers, sum of confidence.
    """

    confusion: np.ndarray
    calibration: np.ndarray

    def weighted(self, weights: np.ndarray) -> Sums:
        """Return the sums of R weightings f[R,U] of the units."""
        return Sums(np.tensordot(weights, self.confusion, axes=1), np.tensordot(weights, self.calibration, axes=1))


def sums_of(probs: np.ndarray, truth: np.ndarray, units: np.ndarray) -> Sums:
    """Return the sums of samples by unit.

    Args:
        probs: float[N,K]. truth: int64[N], every one known. units: int64[N], number of each sample's unit.
    """
    n, classes = int(units.max(initial=-1)) + 1, probs.shape[1]
    guess, sure = probs.argmax(axis=1), probs.max(axis=1).astype(np.float64)
    confusion = np.zeros((n, classes, classes))
    np.add.at(confusion, (units, truth, guess), 1)
    # The bins are (0, 1/15], (1/15, 2/15], ...
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    calibration = np.zeros((n, BINS, 3))
    np.add.at(calibration, (units, bins), np.stack([np.ones_like(sure), guess == truth, sure], axis=1))
    return Sums(confusion, calibration)


def scores_of(sums: Sums) -> dict[str, np.ndarray]:
    """Return score -> f[R] of R sums; classes without a sample are left out of balanced accuracy and macro F1.

    A score of no sample at all is NaN.
    """
    support = sums.confusion.sum(axis=-1)
    recall, f1 = class_scores(sums.confusion)
    right = np.trace(sums.confusion, axis1=-2, axis2=-1)
    gap = np.abs(sums.calibration[..., 1] - sums.calibration[..., 2]).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        n, present = support.sum(axis=-1), (support > 0).sum(axis=-1)
        return {
            "accuracy": right / n,
            "balanced_accuracy": recall.sum(axis=-1) / present,
            "macro_f1": f1.sum(axis=-1) / present,
            "ece": gap / n,
        }


def class_scores(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and F1 f[...,K] of each class of confusion matrices f[...,K,K]; 0 of a class without a sample."""
    support, right = confusion.sum(axis=-1), np.diagonal(confusion, axis1=-2, axis2=-1)
    there = support > 0
    f1 = 2 * right / np.maximum(support + confusion.sum(axis=-2), 1)
    return np.where(there, right / np.maximum(support, 1), 0), np.where(there, f1, 0)


def bootstrap(several: Sequence[Sums], *, replicates: int = REPLICATES, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Return score -> f[replicates] of each of several sums over the same units, drawn alike for all of them.

    Args:
        several: one a model, of the same samples in the same units.
    """
    units = len(several[0].confusion)
    rng = np.random.default_rng(seed)
    parts_of: list[list[dict[str, np.ndarray]]] = [[] for _ in several]
    for start in range(0, replicates, CHUNK):
        count = min(CHUNK, replicates - start)
        weights = rng.multinomial(units, np.full(units, 1 / units), size=count).astype(np.float64)
        for scores, sums in zip(parts_of, several, strict=True):
            scores.append(scores_of(sums.weighted(weights)))
    return [{name: np.concatenate([part[name] for part in parts]) for name in MEASURES} for parts in parts_of]


def interval(values: np.ndarray) -> list[float]:
    """Return the ends of the percentile interval of a score's replicates."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def number_units(subjects: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return the unit of each sample, and what a unit is: "subject" where every sample's is known, else "image"."""
    if all(subjects) and len(set(subjects)) > 1:
        return np.unique(np.array(subjects), return_inverse=True)[1].astype(np.int64), "subject"
    return np.arange(len(subjects)), "image"


def per_class(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return class -> {"n", "recall", "precision", "f1"} of a confusion matrix; None where nothing can be said."""
    scores_by_name: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(classes):
        right, n, guessed = (float(value) for value in (confusion[k, k], confusion[k].sum(), confusion[:, k].sum()))
        scores_by_name[name] = {
            "n": int(n),
            "recall": right / n if n else None,
            "precision": right / guessed if guessed else None,
            "f1": 2 * right / (n + guessed) if n else None,
        }
    return scores_by_name
