"""Tests of significance: against scipy and statsmodels, and against an example worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fercore.evaluation.metrics import sums_of
from fercore.experiments.statistics import (
    Run,
    average_ranks,
    critical_difference,
    friedman,
    holm,
    paired_bootstrap,
    seed_interval,
    wilcoxon,
)


def run_of(right, classes=3, names=None):
    """A run whose answers are right or wrong as given, of images of alternating classes."""
    right = np.asarray(right, dtype=bool)
    truth = np.arange(len(right)) % classes
    guess = np.where(right, truth, (truth + 1) % classes)
    probs = np.eye(classes)[guess] * 0.8 + 0.2 / classes
    return Run(tuple(names or map(str, range(len(right)))), sums_of(probs, truth, np.arange(len(right))))


def test_holm_as_worked_by_hand():
    # Three of 0.01, 0.04, 0.03: 3 x 0.01, then 2 x 0.03, then the larger of 1 x 0.04 and what came before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == pytest.approx([1.0, None, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_statsmodels(seed):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    values = np.random.default_rng(seed).uniform(0, 0.2, size=9)
    assert holm(values.tolist()) == pytest.approx(multitest.multipletests(values, method="holm")[1].tolist())


def test_a_bootstrap_of_one_seed_is_scipys_paired_one():
    rng = np.random.default_rng(0)
    one, other = rng.random(400) < 0.7, rng.random(400) < 0.6
    ours = paired_bootstrap([(run_of(one), run_of(other))], "accuracy", replicates=4000)
    gaps = one.astype(float) - other
    theirs = stats.bootstrap((gaps,), np.mean, n_resamples=4000, method="percentile", random_state=1)
    assert ours.mean == pytest.approx(gaps.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    normal = 2 * stats.norm.sf(abs(gaps.mean()) / (gaps.std() / 20))
    assert ours.p == pytest.approx(normal, abs=0.01)


def test_seeds_that_disagree_widen_the_interval():
    good, bad = np.ones(200, bool), np.arange(200) % 2 == 0
    same = paired_bootstrap([(run_of(good), run_of(bad))] * 3, "accuracy")
    mixed = paired_bootstrap(
        [(run_of(good), run_of(bad)), (run_of(bad), run_of(good)), (run_of(good), run_of(bad))], "accuracy"
    )
    assert same.p < 0.01 < mixed.p
    assert mixed.high - mixed.low > 3 * (same.high - same.low)
    assert mixed.mean == pytest.approx(0.5 / 3)


def test_the_same_images_are_drawn_for_all_seeds_that_test_them():
    right = np.arange(60) % 3 > 0
    one, other = run_of(right), run_of(~right)
    once = paired_bootstrap([(one, other)], "accuracy", seed=3)
    thrice = paired_bootstrap([(one, other)] * 3, "accuracy", seed=3)
    # Three seeds that say the same of the same images are no more evidence than one.
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.15)
    other_images = [
        (run_of(right, names=[f"{k}-{i}" for i in range(60)]), run_of(~right, names=[f"{k}-{i}" for i in range(60)]))
        for k in range(3)
    ]
    apart = paired_bootstrap(other_images, "accuracy", seed=3)
    assert apart.high - apart.low < 0.8 * (once.high - once.low)


def test_a_bootstrap_never_claims_more_than_its_replicates_show():
    right = np.ones(40, bool)
    sure = paired_bootstrap([(run_of(right), run_of(~right))], "accuracy", replicates=99)
    assert (sure.low, sure.high) == (1, 1)
    assert sure.p == pytest.approx(2 * 1 / 100)  # never zero


def test_no_difference_is_not_significant():
    right = np.arange(50) % 2 == 0
    same = paired_bootstrap([(run_of(right), run_of(right))], "balanced_accuracy")
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_wilcoxon_over_pairs_is_scipys_and_says_nothing_of_few():
    rng = np.random.default_rng(2)
    ours, base = rng.random(8), rng.random(8)
    assert wilcoxon(ours, base) == pytest.approx(stats.wilcoxon(ours, base).pvalue)
    assert wilcoxon(ours[:5], base[:5]) is None
    assert wilcoxon(base, base) is None


def test_ranks_and_friedman_as_in_demsar():
    # Demšar 2006, table 6: AUC of four variants of C4.5 on 14 data sets; average ranks 3.143, 2.000, 2.893, 1.964.
    c45 = [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957]
    m = [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978]
    cf = [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946]
    both = [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970]
    ranks = average_ranks({"C4.5": c45, "C4.5+m": m, "C4.5+cf": cf, "C4.5+m+cf": both})
    assert ranks["C4.5"] == pytest.approx(3.143, abs=0.001)
    assert ranks["C4.5+m"] == pytest.approx(2.000, abs=0.001)
    assert ranks["C4.5+m+cf"] == pytest.approx(1.964, abs=0.001)
    assert friedman({"a": c45, "b": m, "c": cf, "d": both}) < 0.05
    assert friedman({"a": c45, "b": m}) is None


def test_the_critical_difference_is_demsars():
    # Section 3.2.2: four classifiers on 14 data sets at 0.95: 2.569 sqrt(4 x 5 / (6 x 14)) = 1.25.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_an_interval_over_seeds_is_students():
    values = [0.5, 0.6, 0.55]
    low, high = seed_interval(values)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values)))
    assert seed_interval([0.5]) is None
