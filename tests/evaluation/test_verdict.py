"""The verdict: witnesses by hand, and what labels say by exact tests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench.verdict.fit import fitted
from fercore.errors import UserInputError
from fercore.evaluation import verdict as module
from fercore.evaluation.selection.certainty import information_maximisation
from fercore.evaluation.selection.structure import class_ami
from fercore.evaluation.verdict import (
    FITTED,
    Expected,
    Fit,
    chance_better,
    clopper_pearson,
    disagreements,
    e_value,
    gains,
    mcnemar,
    with_labels,
    without_labels,
    witnesses,
)


def answers(labels, sure=0.8, k=3):
    return np.full((len(labels), k), (1 - sure) / (k - 1)) + np.eye(k)[labels] * (sure - (1 - sure) / (k - 1))


NOTHING = Expected(0.0, {}, FITTED[0])


def pair(n=100, apart=40, sure=(0.5, 0.9)):
    """On the first images the adapted model says 1, more surely than the reference says 0."""
    old = np.zeros(n, dtype=int)
    new = np.where(np.arange(n) < apart, 1, 0)
    return answers(old, sure[0]), answers(new, sure[1])


def test_witnesses_are_the_mean_gain_of_the_adapted_answer():
    reference, adapted = pair()
    apart = disagreements(reference, adapted)
    assert apart.tolist() == list(range(40))
    others = [answers(np.zeros(100, dtype=int), 0.7)]
    by_image = gains(reference, adapted, apart, others=others)
    assert by_image["models"].mean() == pytest.approx(((0.9 - 0.05) - (0.5 - 0.25)) / 2)
    assert by_image["ensemble"].mean() == pytest.approx((0.85 - 0.25 - 0.55) / 3)
    said = witnesses(reference, adapted, others=others)
    assert said["models"] == pytest.approx(0.4 * 0.3)
    assert said["ensemble"] == pytest.approx(0.4 * 0.05 / 3)
    more = [information_maximisation(each) for each in (reference, adapted)]
    assert said["information"] == pytest.approx((more[1] - more[0]) / math.log(3))


def test_clusters_of_features_speak_for_the_model_whose_classes_they_are():
    reference, adapted = pair()
    place = np.eye(3)[adapted.argmax(axis=1)] + np.random.default_rng(0).normal(0, 0.01, (100, 3))
    said = witnesses(reference, adapted, features=[place, place])
    assert said["class_ami"] == pytest.approx(class_ami(adapted, place) - 0.0)  # one class: 0
    assert said["class_ami"] > 0.5


def test_neighbours_vote_with_the_answer_that_both_models_give():
    """Of images with one answer those near have class 1, so that the adapted model is borne out."""
    reference = answers(np.repeat([0, 0, 1], [20, 40, 40]))
    adapted = answers(np.repeat([1, 0, 1], [20, 40, 40]))
    place = np.repeat([[0.0, 1.0], [1.0, 0.0], [0.05, 1.0]], [20, 40, 40], axis=0)
    by_image = gains(reference, adapted, np.arange(20), features=[place, place])
    np.testing.assert_allclose(by_image["neighbours"], 1)


def test_the_word_goes_by_the_fitted_threshold_and_the_interval_by_the_spread(monkeypatch):
    needs = frozenset({"models", "information"})
    monkeypatch.setattr(module, "FITTED", (Fit(needs, {"models": 0.5}, 0.05, 0.1),))
    judged = without_labels(*pair())
    assert judged.difference == pytest.approx(0.4 * 0.5 * 0.3)
    assert judged.interval == pytest.approx((0.06 - 0.1, 0.06 + 0.1))
    assert judged.witnesses == {"models": pytest.approx(0.06), "information": 0.0}
    assert judged.verdict == "helped"
    assert judged.labels_wanted is None
    reference, adapted = pair()
    back = without_labels(adapted, reference)
    assert back.verdict == "hurt"
    assert back.difference == pytest.approx(-judged.difference)
    monkeypatch.setattr(module, "FITTED", (Fit(needs, {"models": 0.5}, 0.07, 0.9),))
    unclear = without_labels(*pair())
    assert unclear.verdict == "unclear"
    assert unclear.interval == pytest.approx((-0.4, 0.4))  # as many as disagree
    assert unclear.labels_wanted == 40  # all of them
    assert set(unclear.to_json()) >= {"schema", "verdict", "difference", "interval", "n", "disagreements", "witnesses"}


def test_the_fit_with_the_most_witnesses_that_are_there_is_taken(monkeypatch):
    few = Fit(frozenset({"models"}), {"models": 1.0}, 0.0, 0.1)
    many = Fit(frozenset({"models", "ensemble"}), {"ensemble": 1.0}, 0.0, 0.1)
    monkeypatch.setattr(module, "FITTED", (few, many))
    assert without_labels(*pair()).witnesses["models"] != 0
    assert without_labels(*pair(), others=[pair()[1]]).witnesses["models"] == 0


def test_the_fits_follow_from_the_committed_pairs_of_even_cells():
    record = json.loads((Path(__file__).parents[2] / "bench/results/verdict.json").read_text())
    rows = [row for row in record["pairs"] if row["cell"] % 2 == 0]
    assert len(rows) == record["fit_pairs"]
    assert len(FITTED) == 6
    for fit in FITTED:
        again = fitted(rows, sorted(fit.needs))
        assert again.weights == pytest.approx(fit.weights, abs=2e-3)
        assert (again.threshold, again.spread) == pytest.approx((fit.threshold, fit.spread), abs=2e-3)


def test_the_chance_is_bayes_rule_on_a_grid():
    """A normal prior of the difference times the normal likelihood of the labels' mean, summed where it is above 0."""
    fit = Fit(frozenset({"information"}), {"information": 0.5}, 0.0, 0.2)
    before = Expected(-0.03, {}, fit)
    grid = np.linspace(-1, 1, 200_001)
    share, better, worse, m, apart, n = 0.4, 12, 6, 30, 200, 500
    deviation = share * math.sqrt(19 / 32 / 30 * 170 / 199)
    logs = -(((grid + 0.03) / (0.2 / 1.6448536)) ** 2) / 2 - ((grid - share * 6 / 30) / deviation) ** 2 / 2
    weights = np.exp(logs - logs.max())
    assert chance_better(better, worse, m, apart, n, before) == pytest.approx(
        weights[grid > 0].sum() / weights.sum(), abs=1e-4
    )
    # All of them labelled: nothing is left to expect.
    assert [chance_better(b, c, 20, 20, 500, before) for b, c in ((9, 3), (3, 9), (5, 5))] == [1.0, 0.0, 0.5]


def test_what_was_expected_has_no_part_in_the_word():
    reference, adapted = pair(apart=60)
    labels = np.repeat([1, 0, 2], [6, 4, 2])
    told = [
        with_labels(reference, adapted, np.arange(12), labels, planned=12, before=Expected(m, {}, FITTED[0]))
        for m in (-0.3, 0.3)
    ]
    assert told[0].verdict == told[1].verdict == "unclear"
    assert told[0].difference == told[1].difference
    assert told[0].evidence["chance"] < 0.5 < told[1].evidence["chance"]


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
    found = with_labels(reference, adapted, np.arange(60), labels, planned=60, before=NOTHING)
    assert found.difference == pytest.approx(0.030)
    assert found.verdict == "unclear"  # p = 0.11
    low, high = (0.15 * 48 / 60 * (2 * share - 1) for share in clopper_pearson(30, 48))
    assert found.interval == pytest.approx((low, high))
    assert found.labels_wanted > 60
    assert (
        with_labels(reference, adapted, np.arange(60), np.repeat([1, 0], [45, 15]), planned=60, before=NOTHING).verdict
        == "helped"
    )
    assert (
        with_labels(reference, adapted, np.arange(60), np.repeat([1, 0], [15, 45]), planned=60, before=NOTHING).verdict
        == "hurt"
    )


def test_who_stops_early_needs_the_evidence_of_one_who_looked_after_every_label():
    reference, adapted = pair(2000, 300)
    labels = np.repeat([1, 0], [9, 1])  # p = 0.021, e = 9.3
    assert with_labels(reference, adapted, np.arange(10), labels, planned=10, before=NOTHING).verdict == "helped"
    assert with_labels(reference, adapted, np.arange(10), labels, planned=30, before=NOTHING).verdict == "unclear"
    assert (
        with_labels(reference, adapted, np.arange(8), np.ones(8, dtype=int), planned=30, before=NOTHING).verdict
        == "helped"
    )


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
