"""Scores of several candidates at once, from their predictions for the same images; higher is better.

What most of a pool have in common they elect: where most have collapsed the same way, a collapsed one wins.
"""

from __future__ import annotations

import numpy as np

SURE = 0.95
"""Share of its most frequent class above which a candidate has no vote in the ensemble."""


def ensemble(pool_probs: np.ndarray) -> np.ndarray:
    """Return each candidate's agreement with the mean of all (Hu et al., NeurIPS 2024), f[M] from f[M,N,K].

    Candidates that give nearly all images one class have no vote, unless all do. Near-duplicates vote as often as they
    come, and of two candidates the more certain one wins.
    """
    votes = pool_probs.argmax(axis=2)
    k = pool_probs.shape[2]
    top = np.array([np.bincount(row, minlength=k).max() / len(row) for row in votes])
    heard = top <= SURE if (top <= SURE).any() else np.ones(len(top), dtype=bool)
    elected = pool_probs[heard].mean(axis=0, dtype=np.float64).argmax(axis=1)
    agreed: np.ndarray = (votes == elected).mean(axis=1)
    return agreed


def agreement(pool_probs: np.ndarray) -> np.ndarray:
    """Return each candidate's mean agreement with every other, f[M] (Jiang et al., ICLR 2022); NaN for one alone.

    Among seeds of one recipe it estimates the accuracy. Reads a bias that all share as accuracy.
    """
    agreed = _agreed(pool_probs.argmax(axis=2))
    return agreed.sum(axis=1) / (len(agreed) - 1) if len(agreed) > 1 else np.full(len(agreed), np.nan)


def agreement_on_the_line(
    pool_probs: np.ndarray, pool_source_probs: np.ndarray, source_labels: np.ndarray
) -> np.ndarray:
    """Return the accuracy of each candidate by agreement on the line, f[M] (ALine-S; Baek et al., NeurIPS 2022).

    Agreement of pairs on target and held-out source lies on a line in probits, and so does accuracy. NaN where it does
    not: R^2 < 0.95, or fewer than 5 candidates.
    """
    from scipy.stats import norm

    count = len(pool_probs)
    unknown = np.full(count, np.nan)
    if count < 5:
        return unknown
    pairs = np.triu_indices(count, 1)
    target, source = (_probit(_agreed(p.argmax(axis=2))[pairs], p.shape[1]) for p in (pool_probs, pool_source_probs))
    if np.ptp(source) == 0 or np.corrcoef(source, target)[0, 1] ** 2 < 0.95:
        return unknown
    slope, level = np.polyfit(source, target, 1)
    right = (pool_source_probs.argmax(axis=2) == source_labels).mean(axis=1)
    estimates: np.ndarray = norm.cdf(slope * _probit(right, len(source_labels)) + level)
    return estimates


def _agreed(votes: np.ndarray) -> np.ndarray:
    """Return f[M,M], the share of images on which two candidates agree; 0 on the diagonal."""
    shares = np.array([(votes == row).mean(axis=1) for row in votes])
    np.fill_diagonal(shares, 0)
    return shares


def _probit(shares: np.ndarray, n: int) -> np.ndarray:
    from scipy.stats import norm

    probits: np.ndarray = norm.ppf(np.clip(shares, 0.5 / n, 1 - 0.5 / n))
    return probits
