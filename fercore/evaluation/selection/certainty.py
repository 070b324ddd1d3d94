"""Scores of a model by its target predictions alone; higher is better. Each says what fools it."""

from __future__ import annotations

import numpy as np

from fercore.evaluation.selection.arrays import entropies, row_blocks, shares_of, softmax, unit_rows

SND_TEMPERATURE = 0.05
MANO_POWER, MANO_THRESHOLD = 4, 5.0


def entropy(target_probs: np.ndarray) -> float:
    """Return minus the mean entropy of f[N,K]. Fooled by collapse: whoever is sure of one class has the maximum, 0."""
    return -float(entropies(target_probs).mean())


def diversity(target_probs: np.ndarray) -> float:
    """Return the entropy of the mean prediction. The uniform prediction is best; true imbalance is punished."""
    return float(entropies(target_probs.mean(axis=0, dtype=np.float64)[None])[0])


def information_maximisation(target_probs: np.ndarray) -> float:
    """Return diversity and certainty, H(mean p) - mean H(p), in [0, ln K]. Fooled by label shift, and by the scale."""
    return diversity(target_probs) + entropy(target_probs)


def bnm(target_probs: np.ndarray) -> float:
    """Return the nuclear norm of f[N,K] over N (Cui et al., CVPR 2020). Goes by N: compare on the same images alone."""
    return float(np.linalg.norm(target_probs.astype(np.float64), "nuc") / len(target_probs))


def nuclear_norm(target_probs: np.ndarray) -> float:
    """Return the nuclear norm over its maximum, in (0,1] (Deng et al., ICML 2023). Label shift lowers it."""
    n, k = target_probs.shape
    return float(np.linalg.norm(target_probs.astype(np.float64), "nuc") / np.sqrt(n * min(n, k)))


def snd(target_probs: np.ndarray) -> float:
    """Return the soft neighbourhood density, the mean entropy of similarities to all others (Saito et al., ICCV 2021).

    Cosines of the predictions, temperature 0.05. Fooled by collapse: equal points have the maximum, ln(N-1).
    """
    n = len(target_probs)
    if n < 2:
        return float("nan")
    unit = unit_rows(target_probs)
    total = 0.0
    for rows in row_blocks(n):
        near = unit[rows] @ unit.T / SND_TEMPERATURE
        near[np.arange(len(near)), np.arange(n)[rows]] = -np.inf
        total += float(entropies(softmax(near)).sum())
    return total / n


def mano(target_logits: np.ndarray) -> float:
    """Return the L4 norm of normalised logits, (mean q^4)^(1/4) (Xie et al., NeurIPS 2024).

    q is the softmax where the set is certain enough, -mean log softmax > 5, else 1 + z + z^2/2, less its row's minimum
    and over its row's sum. Logits are centred by row first, as that polynomial goes by their level. Made for one model
    on several sets: across models the scale of the logits fools it.
    """
    centred = target_logits.astype(np.float64) - target_logits.mean(axis=1, dtype=np.float64, keepdims=True)
    top = centred.max(axis=1, keepdims=True)
    surprise = -float((centred - top - np.log(np.exp(centred - top).sum(axis=1, keepdims=True))).mean())
    if surprise > MANO_THRESHOLD:
        q = softmax(centred)
    else:
        series = 1 + centred + centred**2 / 2
        series -= series.min(axis=1, keepdims=True)
        sums = series.sum(axis=1, keepdims=True)
        q = np.divide(series, sums, out=np.full_like(series, 1 / series.shape[1]), where=sums > 0)
    return float((q**MANO_POWER).mean() ** (1 / MANO_POWER))


def consistency(target_probs: np.ndarray, target_view_probs: np.ndarray) -> float:
    """Return how often two views of an image get one class, beyond chance (Cohen's kappa); 0 for one class alone."""
    first, second, k = target_probs.argmax(axis=1), target_view_probs.argmax(axis=1), target_probs.shape[1]
    return beyond_chance(float((first == second).mean()), float(shares_of(first, k) @ shares_of(second, k)))


def prior_distance(target_probs: np.ndarray, source_prior: np.ndarray) -> float:
    """Return minus the total variation between the mean prediction and class shares f[K]. Fooled by label shift."""
    return -0.5 * float(np.abs(target_probs.mean(axis=0, dtype=np.float64) - source_prior).sum())


def beyond_chance(agreed: float, by_chance: float) -> float:
    """Return (agreed - by chance) / (1 - by chance); 0 where chance alone agrees always."""
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 - 1e-12 else 0.0
