"""The verdict: witnesses by hand, and what labels say by exact tests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fercore.errors import UserInputError
from fercore.evaluation import verdict as module
from fercore.evaluation.verdict import (
    clopper_pearson,
    disagreements,
    e_value,
    mcnemar,
    with_labels,
    without_labels,
    witnesses,
)


def answers(labels, sure=0.8, k=3):
    return np.full((len(labels), k), (1 - sure) / (k - 1)) + np.eye(k)[labels] * (sure - (1 - sure) / (k - 1))


def pair(n=100, apart=40, sure=(0.5, 0.9)):
    """On the first images the adapted model says 1, more surely than the reference says 0."""
    old = np.zeros(n, dtype=int)
    new = np.where(np.arange(n) < apart, 1, 0)
    return answers(old, sure[0]), answers(new, sure[1])


def test_witnesses_are_the_mean_gain_of_the_adapted_answer():
    reference, adapted = pair()
    apart = disagreements(reference, adapted)
    assert apart.tolist() == list(range(40))
    found = witnesses(reference, adapted, apart, others=[answers(np.zeros(100, dtype=int), 0.7)])
    assert found["models"].mean() == pytest.approx(((0.9 - 0.05) - (0.5 - 0.25)) / 2)
    assert found["ensemble"].mean() == pytest.approx((0.85 - 0.25 - 0.55) / 3)


def test_neighbours_vote_with_the_answer_that_both_models_give():
    """Of images with one answer those near have class 1, so that the adapted model is borne out."""
    reference = answers(np.repeat([0, 0, 1], [20, 40, 40]))
    adapted = answers(np.repeat([1, 0, 1], [20, 40, 40]))
    place = np.repeat([[0.0, 1.0], [1.0, 0.0], [0.05, 1.0]], [20, 40, 40], axis=0)
    found = witnesses(reference, adapted, np.arange(20), features=[place, place])
    np.testing.assert_allclose(found["neighbours"], 1)


def test_the_interval_has_the_fitted_spread_and_the_word_goes_by_it(monkeypatch):
    monkeypatch.setitem(module.FITTED, ("models",), (0.5, 0.1))
    found = without_labels(*pair())
    assert found.difference == pytest.approx(0.4 * 0.5 * 0.3)
    assert found.interval == pytest.approx((0.4 * 0.05, 0.4 * 0.25))
    assert found.verdict == "helped"
    assert found.labels_wanted is None
    reference, adapted = pair()
    back = without_labels(adapted, reference)
    assert back.verdict == "hurt"
    assert back.difference == pytest.approx(-found.difference)
    monkeypatch.setitem(module.FITTED, ("models",), (0.5, 0.2))
    unclear = without_labels(*pair())
    assert unclear.verdict == "unclear"
    assert unclear.labels_wanted == 40  # all of them
    assert set(unclear.to_json()) >= {"schema", "verdict", "difference", "interval", "n", "disagreements", "witnesses"}


def test_slope_and_spread_follow_from_the_committed_pairs():
    record = json.loads((Path(__file__).parents[2] / "bench/results/verdict.json").read_text())
    rows = [row for row in record["pairs"] if row["cell"] % 2 == 0]
    true = np.array([row["on_disagreements"] for row in rows])
    for names, (slope, spread) in module.FITTED.items():
        said = np.array([sum(row["witnesses"][name] for name in names) / len(names) for row in rows])
        assert np.linalg.lstsq(said[:, None], true, rcond=None)[0][0] == pytest.approx(slope, abs=2e-3)
        off = sorted(abs(true - slope * said))
        assert off[math.ceil(0.9 * (len(rows) + 1)) - 1] == pytest.approx(spread, abs=2e-3)


@pytest.mark.parametrize(
    ("b", "c", "p"), [(18, 7, 0.043), (12, 4, 0.077), (9, 1, 0.021), (60, 40, 0.057), (6, 0, 0.031), (0, 0, 1)]
)
def test_mcnemar_is_the_binomial_by_hand(b, c, p):
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(b, c) == pytest.approx(min(1, 2 * tail)) == pytest.approx(p, abs=5e-4)


@pytest.mark.parametrize(("b", "c", "e"), [(8, 0, 28.4), (9, 1, 9.3), (20, 5, 24.3), (18, 7, 2.7)])
def test_e_values_are_those_of_the_uniform_mixture(b, c, e):
    assert e_value(b, c) == pytest.approx(e, abs=0.06)


def test_the_e_value_reaches_20_in_one_of_20_fair_games_at_most_however_often_one_looks():
    rng = np.random.default_rng(0)
    table = np.array([[e_value(b, n - b) if b <= n else 0 for b in range(101)] for n in range(101)])
    wins = (rng.random((10_000, 100)) < 0.5).cumsum(axis=1)
    ever = (table[np.arange(1, 101)[None], wins] >= 20).any(axis=1).mean()
    assert 0.001 < ever <= 0.05


def test_labels_give_the_difference_that_all_images_have():
    """2000 images, 300 disagreements, 60 labelled: 30 for the adapted model, 18 against, 12 neither: 3.0 points."""
    reference, adapted = pair(2000, 300)
    labels = np.repeat([1, 0, 2], [30, 18, 12])
    found = with_labels(reference, adapted, np.arange(60), labels, planned=60)
    assert found.difference == pytest.approx(0.030)
    assert found.verdict == "unclear"  # p = 0.11
    low, high = (0.15 * 48 / 60 * (2 * share - 1) for share in clopper_pearson(30, 48))
    assert found.interval == pytest.approx((low, high))
    assert found.labels_wanted > 60
    assert with_labels(reference, adapted, np.arange(60), np.repeat([1, 0], [45, 15]), planned=60).verdict == "helped"
    assert with_labels(reference, adapted, np.arange(60), np.repeat([1, 0], [15, 45]), planned=60).verdict == "hurt"


def test_who_stops_early_needs_the_evidence_of_one_who_looked_after_every_label():
    reference, adapted = pair(2000, 300)
    labels = np.repeat([1, 0], [9, 1])  # p = 0.021, e = 9.3
    assert with_labels(reference, adapted, np.arange(10), labels, planned=10).verdict == "helped"
    assert with_labels(reference, adapted, np.arange(10), labels, planned=30).verdict == "unclear"
    assert with_labels(reference, adapted, np.arange(8), np.ones(8, dtype=int), planned=30).verdict == "helped"


def test_clopper_pearson_is_the_exact_interval():
    low, high = clopper_pearson(8, 10)
    tail = lambda p, ks: sum(math.comb(10, k) * p**k * (1 - p) ** (10 - k) for k in ks)  # noqa: E731
    assert tail(low, range(8, 11)) == pytest.approx(0.025, abs=1e-4)
    assert tail(high, range(9)) == pytest.approx(0.025, abs=1e-4)


def test_too_few_images_and_the_same_model_are_one_line():
    with pytest.raises(UserInputError, match="19 images: too few"):
        without_labels(*pair(19, 5))
    reference, _ = pair()
    with pytest.raises(UserInputError, match="the same model"):
        without_labels(reference, reference * 0.9 + 0.1 / 3)
