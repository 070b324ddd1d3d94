"""Class shares of the target: the worked examples of the papers' equations, and what comes out where nothing shifts."""

from __future__ import annotations

import numpy as np
import pytest

from fercore.errors import UserInputError
from fercore.evaluation.label_shift import bbse, corrected, em, estimates, interval, rlls


def sides(shares, n=6000, right=0.8, seed=0):
    """Source even, target as asked; the classifier is right with one share, errors are spread evenly."""
    rng, k = np.random.default_rng(seed), len(shares)

    def draw(labels):
        wrong = (labels + rng.integers(1, k, len(labels))) % k
        seen = np.where(rng.random(len(labels)) < right, labels, wrong)
        return np.full((len(labels), k), (1 - right) / (k - 1)) + np.eye(k)[seen] * (right - (1 - right) / (k - 1))

    labels = np.arange(n) % k
    return draw(rng.choice(k, n, p=shares)), draw(labels), labels


def test_em_has_the_steps_and_the_end_of_the_worked_example():
    p = np.repeat([[8 / 9, 1 / 9], [2 / 11, 9 / 11]], [24, 76], axis=0)
    even = np.full((2, 2), 0.5)
    np.testing.assert_allclose([em(p, even, rounds=r)[0] for r in (1, 2, 10)], [0.352, 0.277, 0.201], atol=1e-3)
    np.testing.assert_allclose(em(p, even), [0.2, 0.8], atol=1e-4)


def test_bbse_has_the_weights_of_the_worked_example():
    """C = [[.4,.05],[.1,.45]], mu = (.24,.76): w = (.4, 1.6)."""
    source = np.eye(2)[np.repeat([0, 1, 0, 1], [40, 10, 5, 45])]
    labels = np.repeat([0, 0, 1, 1], [40, 10, 5, 45])
    np.testing.assert_allclose(bbse(np.eye(2)[np.repeat([0, 1], [24, 76])], source, labels), [0.2, 0.8])


@pytest.mark.parametrize("estimate", [bbse, rlls, lambda t, s, y: em(t, s)])
def test_shares_are_found(estimate):
    shares = np.array([0.1, 0.2, 0.7])
    np.testing.assert_allclose(estimate(*sides(shares)), shares, atol=0.03)
    _, source, labels = sides(shares)
    unmoved = [1 / 3] * 3 if estimate in (bbse, rlls) else source.mean(axis=0)  # the prior by the classifier's own word
    np.testing.assert_allclose(estimate(source, source, labels), unmoved, atol=1e-4)


def test_every_estimator_has_its_interval_and_bbse_is_left_out_where_it_is_not_defined():
    shares = np.array([0.1, 0.2, 0.7])
    target, source, labels = sides(shares, n=900)
    told = estimates(target, source, labels, draws=40)
    assert list(told) == ["em", "bbse", "rlls"]
    for rows in told.values():
        assert rows[:, 0] == pytest.approx(shares, abs=0.06)
        assert (rows[:, 1] <= rows[:, 0]).all()
        assert (rows[:, 0] <= rows[:, 2]).all()
    few = np.isin(np.arange(len(labels)), np.flatnonzero(labels == 2)[3:], invert=True)
    assert list(estimates(target, source[few], labels[few], draws=10)) == ["em", "rlls"]
    one_class = np.full_like(source, 0.1) + 0.7 * np.eye(3)[0]
    assert list(estimates(one_class, one_class, labels, draws=10)) == ["em"]


def test_rlls_minimises_its_objective():
    target, source, labels = sides(np.array([0.1, 0.2, 0.7]), n=90)
    found = rlls(target, source, labels)
    counts = np.zeros((3, 3))
    np.add.at(counts, (source.argmax(1), labels), 1 / 90)
    gap = np.bincount(target.argmax(1), minlength=3) / 90 - counts.sum(1)
    spread = np.log(6 / 0.05) / 90
    rho = 0.03 * (2 * spread / 3 + np.sqrt(2 * spread))

    def loss(theta):
        return np.linalg.norm(counts @ theta - gap) + rho * np.linalg.norm(theta)

    grid = np.linspace(-1, 2, 61)
    best = min((np.array([a, b, c]) for a in grid for b in grid for c in grid), key=loss)
    expected = np.maximum(1 + best, 0) * counts.sum(0)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.04)


def test_the_bootstrap_holds_the_truth_and_narrows():
    shares = np.array([0.15, 0.25, 0.6])
    low, high = interval(bbse, *sides(shares, n=600), draws=200)
    assert (low < shares).all()
    assert (shares < high).all()
    near_low, near_high = interval(bbse, *sides(shares), draws=200)
    assert ((near_high - near_low) < 0.6 * (high - low)).all()


def test_a_collapsed_classifier_is_refused_by_name():
    with pytest.raises(UserInputError, match="singular value"):
        bbse(np.eye(3)[[0] * 30], np.eye(3)[[0] * 30], np.arange(30) % 3)


def test_corrected_predictions_are_those_of_bayes():
    found = corrected(np.array([[0.6, 0.4]]), np.array([0.5, 0.5]), np.array([0.2, 0.8]))
    np.testing.assert_allclose(found, [[0.12 / 0.44, 0.32 / 0.44]])
    np.testing.assert_allclose(corrected(np.array([[0.6, 0.4]]), np.full(2, 0.5), np.full(2, 0.5)), [[0.6, 0.4]])
