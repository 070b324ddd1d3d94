"""Tests of significance for tables of methods, pairs of domains and seeds.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (chapter 16, paired bootstrap); Holm, Scandinavian
Journal of Statistics 6, 1979; Demšar, JMLR 7, 2006 (Wilcoxon over data sets, Friedman, Nemenyi's critical difference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fercore.evaluation.metrics import CHUNK, LEVEL, REPLICATES, Sums, interval, scores_of

FEWEST_PAIRS = 6
"""Of fewer pairs no result of Wilcoxon's signed ranks is below 0.05: the smallest two-sided p of n is 2 / 2^n."""


@dataclass(frozen=True)
class Run:
    """What one seed's model said of labelled test images, as sums over units.

    Attributes:
        units: name of each unit, a subject or an image, in the order of `sums`. sums: of what scores are made.
    """

    units: tuple[str, ...]
    sums: Sums


@dataclass(frozen=True)
class Difference:
    """A paired difference of a score to the reference's, as a share.

    Attributes:
        mean: over seeds. low, high: ends of the percentile interval. p: two-sided, None where it cannot be said.
        adjusted: p after Holm's correction, None until it was made.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None = None


def paired_bootstrap(
    runs: Sequence[tuple[Run, Run]], metric: str, *, replicates: int = REPLICATES, seed: int = 0
) -> Difference:
    """Return the difference of a score between two methods, drawn over units and seeds at once.

    A replicate draws seeds and, out of all test units, units; both methods see the same draw, and so do all seeds that
    tested the same unit. With few units or seeds the interval is too short, as any bootstrap's: it is no proof of more.

    Args:
        runs: (method, reference) of each seed, of the same images. metric: as `scores_of` names it.
        replicates, seed: of the bootstrap.
    """
    names = sorted({name for one, _ in runs for name in one.units})
    place = {name: row for row, name in enumerate(names)}
    rows = [np.array([place[name] for name in one.units]) for one, _ in runs]
    rng = np.random.default_rng(seed)
    drawn = np.empty(0)
    for start in range(0, replicates, CHUNK):
        count = min(CHUNK, replicates - start)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count).astype(np.float64)
        gaps = np.stack(
            [_gap(one, other, metric, weights[:, at]) for (one, other), at in zip(runs, rows, strict=True)], axis=1
        )  # f[count, seeds]
        chosen = rng.integers(len(runs), size=gaps.shape)
        drawn = np.concatenate([drawn, np.take_along_axis(gaps, chosen, axis=1).mean(axis=1)])
    whole = [float(_gap(one, other, metric, np.ones((1, len(one.units))))[0]) for one, other in runs]
    low, high = interval(drawn)
    drawn = drawn[~np.isnan(drawn)]
    # One is added to both counts: a p of zero would claim more than that many replicates can show.
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(float(np.mean(whole)), low, high, min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))


def _gap(one: Run, other: Run, metric: str, weights: np.ndarray) -> np.ndarray:
    ours, theirs = (scores_of(run.sums.weighted(weights))[metric] for run in (one, other))
    gap: np.ndarray = ours - theirs
    return gap


def wilcoxon(method: Sequence[float], reference: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed ranks over pairs of domains; None of fewer than `FEWEST_PAIRS`."""
    gaps = np.subtract(method, reference)
    if len(gaps) < FEWEST_PAIRS or not gaps.any():
        return None
    from scipy.stats import wilcoxon as signed_ranks

    return float(signed_ranks(gaps).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p values after Holm's step-down correction, in the order given; None stays None and is not counted."""
    known = sorted((value, at) for at, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for step, (value, at) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - step)))
        adjusted[at] = largest
    return adjusted


def average_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each method's rank averaged over pairs, 1 for the best; equal scores share their mean rank.

    Args:
        scores: method -> score on each pair, higher is better.
    """
    from scipy.stats import rankdata

    ranks = rankdata(-np.array(list(scores.values())), axis=0)
    return dict(zip(scores, ranks.mean(axis=1).tolist(), strict=True))


def friedman(scores: Mapping[str, Sequence[float]]) -> float | None:
    """Return the p that all methods rank alike; None of fewer than three methods or two pairs."""
    columns = [list(values) for values in scores.values()]
    if len(columns) < 3 or len(columns[0]) < 2:
        return None
    from scipy.stats import friedmanchisquare

    with np.errstate(invalid="ignore", divide="ignore"):
        p = float(friedmanchisquare(*columns).pvalue)
    return None if np.isnan(p) else p


def critical_difference(methods: int, pairs: int, *, level: float = LEVEL) -> float:
    """Return how far average ranks must be apart to differ: q sqrt(k (k + 1) / 6N) of Nemenyi (Demšar, section 3.2.2).

    Args:
        methods: k, two or more. pairs: N. level: of confidence.
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(level, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * pairs)))


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's interval of a mean over seeds; None of one seed."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half
