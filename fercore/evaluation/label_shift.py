"""The target's class shares from predictions, where p(image | class) is that of the source: label shift.

Under covariate shift, or other annotators, every estimate is confident nonsense; none is used by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fercore.errors import UserInputError
from fercore.evaluation.selection.accuracy import temperature
from fercore.evaluation.selection.arrays import shares_of, softmax
from fercore.records.result import ShareEstimate

WELL_POSED, FEWEST = 1e-3, 5
SharesByEstimator: TypeAlias = Mapping[str, Mapping[str, ShareEstimate]]
"""Estimator -> class -> its share."""


def em(
    target_probs: np.ndarray, source_probs: np.ndarray, *, rounds: int = 1000, tolerance: float = 1e-9
) -> np.ndarray:
    """Return the class shares f[K] by expectation maximisation (Saerens et al., Neural Computation 2002).

    Args:
        target_probs, source_probs: calibrated f[N,K] of the target and of held-out source, whose mean is the prior of
            the classifier, so that no shift is found on the source itself.
    """
    before = np.maximum(source_probs.mean(axis=0, dtype=np.float64), 1e-12)
    p: np.ndarray = target_probs.astype(np.float64)
    shares: np.ndarray = before
    for _ in range(rounds):
        joint = p * (shares / before)
        now: np.ndarray = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(now - shares).max() < tolerance:
            return now
        shares = now
    return shares


def bbse(target_probs: np.ndarray, source_probs: np.ndarray, source_labels: np.ndarray) -> np.ndarray:
    """Return the class shares by black-box shift estimation with hard predictions (Lipton et al., ICML 2018).

    Raises:
        UserInputError: if the confusion matrix has no stable inverse, or a class fewer than 5 held-out samples.
    """
    confusion, target = _confusion(target_probs, source_probs, source_labels)
    smallest = float(np.linalg.svd(confusion, compute_uv=False)[-1])
    fewest = int(np.bincount(source_labels, minlength=confusion.shape[1]).min())
    if smallest < WELL_POSED or fewest < FEWEST:
        what = f"class shares cannot be told: smallest singular value {smallest:.1e}, {fewest} samples of a class"
        raise UserInputError(what, where="bbse", fix="hold out more source, or take rlls, which is regularised")
    return _shares(np.linalg.solve(confusion, target), confusion)


def rlls(
    target_probs: np.ndarray, source_probs: np.ndarray, source_labels: np.ndarray, *, alpha: float = 0.01
) -> np.ndarray:
    """Return the class shares by regularised learning under label shift (Azizzadenesheli et al., ICLR 2019).

    w = 1 + theta, theta = argmin |C theta - (mu_t - mu_s)| + rho |theta|, theta >= -1; rho falls with the held-out
    samples, at confidence 0.95.
    """
    from scipy.optimize import minimize

    confusion, target = _confusion(target_probs, source_probs, source_labels)
    gap, k = target - confusion.sum(axis=1), len(confusion)
    spread = np.log(2 * k / 0.05) / len(source_labels)
    rho = alpha * 3 * (2 * spread / 3 + np.sqrt(2 * spread))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        left = confusion @ theta - gap
        # Both norms have no gradient at 0, where one of the two often ends.
        first, second = (float(np.sqrt(each @ each + 1e-18)) for each in (left, theta))
        return first + rho * second, confusion.T @ left / first + rho * theta / second

    start = np.maximum(np.linalg.lstsq(confusion, gap, rcond=1e-6)[0], -1)
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-12}
    tries = [
        minimize(loss, first, jac=True, bounds=[(-1, None)] * k, method="L-BFGS-B", options=options)
        for first in (start, np.zeros(k))
    ]
    minimum = min(tries, key=lambda each: float(each.fun))
    return _shares(1 + minimum.x, confusion)


def interval(
    estimate: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    target_probs: np.ndarray,
    source_probs: np.ndarray,
    source_labels: np.ndarray,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends f[K] of the bootstrap's percentiles.

    Target samples are drawn freely, those of the source within their class.
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(source_labels == k) for k in np.unique(source_labels)]
    estimates = []
    for _ in range(draws):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        target = target_probs[rng.integers(0, len(target_probs), len(target_probs))]
        estimates.append(estimate(target, source_probs[rows], source_labels[rows]))
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def estimates(
    target_probs: np.ndarray,
    source_probs: np.ndarray,
    source_labels: np.ndarray,
    *,
    draws: int = 100,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return estimator -> f[K,3]: share of each class, lower and upper end of its interval of 95 %.

    `em` goes by probabilities at the temperature that fits held-out source, `bbse` and `rlls` by predicted classes.
    Estimators that are not defined, on all samples or on a draw of the bootstrap, are left out, and those that go by
    predicted classes where these tell the classes of the source no longer apart.
    """
    heat = temperature(np.log(np.maximum(source_probs, 1e-12)), source_labels)
    target, source = (_at(probs, heat) for probs in (target_probs, source_probs))
    by_name: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
        # Rounds as published: the bootstrap takes them 100 times.
        "em": lambda t, s, _: em(t, s, rounds=100, tolerance=1e-6),
        "bbse": bbse,
        "rlls": rlls,
    }
    confusion = _confusion(target, source, source_labels)[0]
    if np.linalg.svd(confusion, compute_uv=False)[-1] < WELL_POSED:
        # Predicted classes that tell nothing apart: rlls would give the source's shares, with no doubt about them.
        del by_name["bbse"], by_name["rlls"]
    shares_of_estimator = {}
    for name, estimate in by_name.items():
        try:
            middle = estimate(target, source, source_labels)
            ends = interval(estimate, target, source, source_labels, draws=draws, seed=seed)
        except UserInputError:  # of bbse: no stable inverse, or too few held-out samples of a class
            continue
        shares_of_estimator[name] = np.stack([middle, *ends], axis=1)
    return shares_of_estimator


def named_estimates(
    classes: Sequence[str], target_probs: np.ndarray, source_probs: np.ndarray, source_labels: np.ndarray, *, seed: int
) -> dict[str, dict[str, ShareEstimate]]:
    """Return `estimates` by the names of the classes, in the order of the columns."""
    by_estimator = estimates(target_probs, source_probs, source_labels, seed=seed)
    return {
        name: {
            each: ShareEstimate(share=share, low=low, high=high)
            for each, (share, low, high) in zip(classes, np.clip(rows, 0, 1).tolist(), strict=True)
        }
        for name, rows in by_estimator.items()
    }


def shares_lines(by_estimator: SharesByEstimator | None) -> list[str]:
    """Return a line for every estimator, for people; none where there is nothing to estimate with."""
    return [
        f"class shares of the target by {name}: "
        + ", ".join(f"{each} {share.share:.0%} ({share.low:.0%}-{share.high:.0%})" for each, share in rows.items())
        for name, rows in (by_estimator or {}).items()
    ]


def shares_json(by_estimator: SharesByEstimator | None) -> dict[str, Any]:
    """Return {"estimated_shares": estimator -> class -> share, low, high} as JSON values; {} where there are none."""
    if by_estimator is None:
        return {}
    return {
        "estimated_shares": {
            name: {each: share.model_dump() for each, share in rows.items()} for name, rows in by_estimator.items()
        }
    }


def estimated_ratio(target_probs: np.ndarray, source_probs: np.ndarray) -> np.ndarray:
    """Return f[K], the target's class shares over the classifier's own prior, by `em`; probabilities are calibrated."""
    before = np.maximum(source_probs.mean(axis=0, dtype=np.float64), 1e-12)
    # A class that EM drives to 0 would never be predicted again: 1/N is what one image is worth.
    after = np.maximum(em(target_probs, source_probs), 1 / len(target_probs))
    ratio: np.ndarray = after / after.sum() / before
    return ratio


def _at(probs: np.ndarray, heat: float) -> np.ndarray:
    return softmax(np.log(np.maximum(probs.astype(np.float64), 1e-12)) / heat)


def corrected(probs: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return f[N,K] for other class shares: p_k after_k / before_k, rows summing to 1."""
    moved = probs * (after / np.maximum(before, 1e-12))
    posteriors: np.ndarray = moved / np.maximum(moved.sum(axis=1, keepdims=True), 1e-30)
    return posteriors


def _confusion(target: np.ndarray, source: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return C[i,j] = P(predicted i, true j) on the source, and the shares of predictions on the target."""
    k = source.shape[1]
    counts = np.zeros((k, k))
    np.add.at(counts, (source.argmax(axis=1), labels), 1)
    return counts / len(labels), shares_of(target.argmax(axis=1), k)


def _shares(weights: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    products = np.maximum(weights, 0) * confusion.sum(axis=0)
    shares: np.ndarray = products / products.sum()
    return shares
