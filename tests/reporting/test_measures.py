"""Numbers of a report are those of scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from fercore.evaluation.metrics import BINS, bootstrap, interval, scores_of, sums_of
from fercore.reporting import measures


def test_the_images_of_a_matrix_have_its_scores_and_the_binomial_interval():
    confusion = np.array([[30, 5, 2], [4, 40, 9], [0, 7, 13]])
    sums = measures.one_by_one(confusion)
    n, right = confusion.sum(), np.trace(confusion)
    assert np.array_equal(sums.confusion.sum(axis=0), confusion)
    assert scores_of(sums.weighted(np.ones(n)))["accuracy"] == right / n
    want = stats.binom(n, right / n).ppf([0.025, 0.975]) / n
    assert interval(bootstrap([sums])[0]["accuracy"]) == pytest.approx(want, abs=1.01 / n)


def test_calibration_is_that_of_a_binary_one_on_being_right():
    generator = np.random.default_rng(0)
    probs, labels = generator.dirichlet(np.full(4, 0.6), 200), generator.integers(0, 4, 200)
    right, confidence = probs.argmax(axis=1) == labels, probs.max(axis=1)
    bins = measures.reliability(sums_of(probs, labels, np.arange(200)))
    accuracy, sure = calibration_curve(right, confidence, n_bins=BINS)
    assert bins.accuracy == pytest.approx(accuracy)
    assert bins.confidence == pytest.approx(sure)
    assert bins.n.sum() == 200
    assert bins.ece == pytest.approx(np.average(np.abs(accuracy - sure), weights=bins.n))


def test_domains_that_are_apart_are_told_apart():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(120, 8))
    far = rows + 12
    assert measures.a_distance(rows, far) == 2
    assert measures.a_distance(rows[:60], rows[60:]) < 0.5
    assert measures.mmd(rows, rows) == pytest.approx(0, abs=1e-3)
    assert measures.mmd(rows[:60], rows[60:]) < 0.5 * measures.mmd(rows, far)
