"""Scores against scikit-learn and plain loops; intervals against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score

from fercore.evaluation import metrics


def drawn(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes - 1, n)  # the last class has no sample
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs.astype(np.float32), truth


def calibration_error(probs: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    error = 0.0
    for k in range(bins):
        inside = [i for i, row in enumerate(probs) if k / bins < row.max() <= (k + 1) / bins]
        if inside:
            right = np.mean([probs[i].argmax() == truth[i] for i in inside])
            error += len(inside) / len(probs) * abs(right - np.mean([probs[i].max() for i in inside]))
    return error


def test_scores_are_those_of_scikit_learn():
    probs, truth = drawn(200, 5)
    guess = probs.argmax(1)
    sums = metrics.sums_of(probs, truth, np.arange(200) % 7)
    found = {name: float(value) for name, value in metrics.scores_of(
        metrics.Sums(sums.confusion.sum(0), sums.calibration.sum(0))).items()}  # fmt: skip
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(np.mean([(guess[truth == k] == k).mean() for k in range(4)]))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro", labels=range(4)))
    assert found["ece"] == pytest.approx(calibration_error(probs, truth))
    table = metrics.per_class(sums.confusion.sum(0), "abcde")
    assert table["e"] == {"n": 0, "recall": None, "precision": 0.0, "f1": None}
    assert table["b"]["precision"] == pytest.approx(precision_score(truth, guess, average=None, labels=[1])[0])
    inside = guess < 4
    assert balanced_accuracy_score(truth[inside], guess[inside]) >= found["balanced_accuracy"]


def test_intervals_are_as_wide_as_the_number_of_people_makes_them():
    rng = np.random.default_rng(1)
    right = np.repeat(rng.random(60) < 0.7, 10)  # ten images of a person are right or wrong together
    truth = np.zeros(600, dtype=int)
    probs = np.where(right[:, None], [0.8, 0.2], [0.2, 0.8]).astype(np.float32)
    people, kind = metrics.number_units([f"s{i // 10}" for i in range(600)])
    images, other = metrics.number_units([""] + ["s"] * 599)
    assert (kind, other) == ("subject", "image")
    p = right.mean()
    for units, n in ((people, 60), (images, 600)):
        (values,) = metrics.bootstrap([metrics.sums_of(probs, truth, units)], replicates=2000, seed=2)
        low, high = metrics.interval(values["accuracy"])
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / n), rel=0.1)
        assert low < p < high


def test_differences_are_paired():
    probs, truth = drawn(300, 4)
    worse = probs.copy()
    worse[:20] = worse[:20, ::-1]
    units = np.arange(300)
    first, second = metrics.bootstrap([metrics.sums_of(one, truth, units) for one in (probs, worse)], seed=3)
    apart = metrics.interval(first["accuracy"] - second["accuracy"])
    alone = metrics.interval(first["accuracy"])
    assert apart[1] - apart[0] < 0.7 * (alone[1] - alone[0])
    again, _ = metrics.bootstrap([metrics.sums_of(one, truth, units) for one in (probs, worse)], seed=3)
    assert np.array_equal(again["ece"], first["ece"])
