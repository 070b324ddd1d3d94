"""Whether adapting helped, without labels: what images say on which two models disagree.

The difference of accuracies is |D|/n (P(adapted right | D) - P(reference right | D)), D = images with two answers.
Witnesses estimate it; what each is worth, and how far their sum may be off, was fitted on generated pairs
(`bench/verdict`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np

from fercore.errors import UserInputError
from fercore.evaluation.label_shift import SharesByEstimator, shares_json
from fercore.evaluation.selection.arrays import unit_rows
from fercore.evaluation.selection.certainty import information_maximisation
from fercore.evaluation.selection.structure import class_ami
from fercore.terminal import counted

Word: TypeAlias = Literal["helped", "hurt", "unclear"]

SCHEMA = 1
FEWEST, NEIGHBOURS = 20, 10


@dataclass(frozen=True)
class Fit:
    """What witnesses are worth, by pairs of models whose accuracies are known.

    Attributes:
        weights: the difference is the sum of each witness times its weight. threshold: the verdict decides where the
            difference is beyond it: where, left out in turn, it was right in 85 % of the fitting pairs.
        spread: of differences left out in turn 90 % were off by no more. needs: the witnesses that had to be heard,
            those that turned out to be worth nothing among them.
    """

    needs: frozenset[str]
    weights: Mapping[str, float]
    threshold: float
    spread: float


FITTED: tuple[Fit, ...] = (
    Fit(frozenset({"models", "information"}), {"information": 0.965}, 0.0193, 0.1989),
    Fit(
        frozenset({"models", "class_ami", "information"}),
        {"class_ami": 0.294, "information": 0.777},
        0.0154,
        0.1771,
    ),
    Fit(
        frozenset({"neighbours", "models", "class_ami", "information"}),
        {"class_ami": 0.294, "information": 0.777},
        0.0154,
        0.1771,
    ),
    Fit(frozenset({"models", "ensemble", "information"}), {"information": 0.965}, 0.0193, 0.1989),
    Fit(
        frozenset({"ensemble", "models", "class_ami", "information"}),
        {"class_ami": 0.294, "information": 0.777},
        0.0154,
        0.1771,
    ),
    Fit(
        frozenset({"ensemble", "information", "models", "class_ami", "neighbours"}),
        {"class_ami": 0.294, "information": 0.777},
        0.0154,
        0.1771,
    ),
)
"""For every set of witnesses there may be (bench/results/verdict.json)."""


@dataclass(frozen=True)
class Expected:
    """What is expected of the difference without a label.

    Attributes:
        middle: of accuracies, adapted - reference; shares: witness -> what each adds to it. fit: what they go by.
    """

    middle: float
    shares: dict[str, float]
    fit: Fit


@dataclass(frozen=True)
class Verdict:
    """Whether the adapted model is better than the reference.

    Attributes:
        verdict: one word. difference: of accuracies, adapted - reference, in [-1,1]. interval: of it, at 90 %
            without labels, where the word goes by a threshold of its own, and 95 % with them. n: images.
            disagreements: images with two answers.
        witnesses: name -> what each adds to the difference, 0 where it is worth nothing by the fit.
        labels_used: labels of disagreements.
        evidence: what labels say: "better", "worse" (images that one model alone has right), "p", "e_value", and
            "chance", that the adapted model is better by labels and witnesses together (see `chance_better`).
        labels_wanted: labels of disagreements that would settle it; None where it is settled.
        estimated_shares: of the classes on images that the models were run on; None where there is nothing to
            estimate them with.
    """

    verdict: Word
    difference: float
    interval: tuple[float, float]
    n: int
    disagreements: int
    witnesses: dict[str, float]
    labels_used: int = 0
    evidence: dict[str, float] | None = None
    labels_wanted: int | None = None
    estimated_shares: SharesByEstimator | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the values that `fercore verdict --json` prints."""
        values = {name: value for name, value in vars(self).items() if name != "estimated_shares"}
        return {"schema": SCHEMA, **values, "interval": list(self.interval), **shares_json(self.estimated_shares)}


def disagreements(reference: np.ndarray, adapted: np.ndarray) -> np.ndarray:
    """Return int[d], the images to which f[n,K] and f[n,K] give two answers.

    Raises:
        UserInputError: for fewer than 20 images, or without any.
    """
    if len(reference) < FEWEST:
        what = f"{counted(len(reference), 'image')}: too few to say anything"
        raise UserInputError(what, where="verdict", fix=f"give {FEWEST} or more")
    apart = np.flatnonzero(reference.argmax(axis=1) != adapted.argmax(axis=1))
    if not len(apart):
        what = f"no disagreement: on {counted(len(reference), 'image')} the two are the same model"
        raise UserInputError(what, where="verdict", fix="there is nothing to choose; ship either")
    return apart


def without_labels(
    reference: np.ndarray,
    adapted: np.ndarray,
    *,
    others: Sequence[np.ndarray] = (),
    features: Sequence[np.ndarray] = (),
    class_amis: Sequence[float] = (),
) -> Verdict:
    """Return the verdict that no label has gone into.

    Args:
        reference, adapted: probabilities f[n,K]. others: of further candidates, such as seeds and methods at hand.
        features: f[n,D] of the two models, or none. class_amis: as `witnesses`.

    Raises:
        UserInputError: as `disagreements`.
    """
    before = expected(witnesses(reference, adapted, others=others, features=features, class_amis=class_amis))
    middle, shares, fit = before.middle, before.shares, before.fit
    apart = disagreements(reference, adapted)
    most = len(apart) / len(reference)
    word: Word = "unclear" if abs(middle) <= fit.threshold else "helped" if middle > 0 else "hurt"
    low, high = (float(np.clip(middle + sign * fit.spread, -most, most)) for sign in (-1, 1))
    return Verdict(
        verdict=word,
        difference=float(np.clip(middle, -most, most)),
        interval=(low, high),
        n=len(reference),
        disagreements=len(apart),
        witnesses=shares,
        labels_wanted=None if word == "helped" else labels_wanted(middle / most, len(apart)),
    )


def expected(said: Mapping[str, float]) -> Expected:
    """Return what witnesses come to, by the fit with the most of them that are there.

    Args:
        said: as `witnesses` returns it.
    """
    known = [fit for fit in FITTED if fit.needs <= said.keys()]
    fit = max(known, key=lambda each: len(each.needs))
    shares = {name: fit.weights.get(name, 0.0) * value for name, value in said.items()}
    return Expected(sum(shares.values()), shares, fit)


def witnesses(
    reference: np.ndarray,
    adapted: np.ndarray,
    *,
    others: Sequence[np.ndarray] = (),
    features: Sequence[np.ndarray] = (),
    class_amis: Sequence[float] = (),
) -> dict[str, float]:
    """Return what every witness says, in units of accuracy or of its own score.

    `models`, `ensemble`, `neighbours`: as `gains`, over all images. `information` and `class_ami`: how much more of
    information maximisation, over ln K, and of the agreement with clusters of features the adapted model has.

    Args:
        reference, adapted: probabilities f[n,K]. others: of further candidates. features: f[n,D] of the two, or none.
        class_amis: that score of either on these images, where it is known and the features are not.

    Raises:
        UserInputError: as `disagreements`.
    """
    apart = disagreements(reference, adapted)
    said = {
        name: float(each.sum()) / len(reference)
        for name, each in gains(reference, adapted, apart, others=others, features=features).items()
    }
    spreads = [information_maximisation(probs) for probs in (reference, adapted)]
    said["information"] = (spreads[1] - spreads[0]) / math.log(reference.shape[1])
    if features:
        class_amis = [class_ami(*each) for each in zip((reference, adapted), features, strict=True)]
    if class_amis:
        before, now = class_amis
        said["class_ami"] = now - before
    return said


def gains(
    reference: np.ndarray,
    adapted: np.ndarray,
    apart: np.ndarray,
    *,
    others: Sequence[np.ndarray] = (),
    features: Sequence[np.ndarray] = (),
) -> dict[str, np.ndarray]:
    """Return name -> f[d], how much likelier the adapted model's answer is than the reference's, image by image.

    `models` is the mean probability of the two, `ensemble` that of all candidates, and `neighbours` how many of the 10
    nearest images with one answer have it, in the features of either model.
    """
    old, new = reference[apart].argmax(axis=1), adapted[apart].argmax(axis=1)

    def gain(shares: np.ndarray) -> np.ndarray:
        rows = np.arange(len(apart))
        difference: np.ndarray = (shares[rows, new] - shares[rows, old]).astype(np.float64)
        return difference

    gains_of = {"models": gain((reference[apart] + adapted[apart]) / 2)}
    if others:
        gains_of["ensemble"] = gain(np.mean([reference[apart], adapted[apart], *(o[apart] for o in others)], axis=0))
    agreed = np.setdiff1d(np.arange(len(reference)), apart)
    if features and len(agreed) >= NEIGHBOURS:
        votes = np.eye(reference.shape[1])[reference[agreed].argmax(axis=1)]
        shares = [_near(unit_rows(f), apart, agreed, votes) for f in features]
        gains_of["neighbours"] = gain(np.mean(shares, axis=0))
    return gains_of


def _near(points: np.ndarray, apart: np.ndarray, agreed: np.ndarray, votes: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points[agreed])
    shares: np.ndarray = votes[search.kneighbors(points[apart], return_distance=False)].mean(axis=1)
    return shares


def with_labels(
    reference: np.ndarray,
    adapted: np.ndarray,
    labelled: np.ndarray,
    labels: np.ndarray,
    *,
    planned: int,
    before: Expected,
) -> Verdict:
    """Return the verdict of labels of disagreements that were drawn with equal chances.

    The exact test of McNemar decides where all that were asked for are labelled. Where fewer are, it would be wrong to
    look at it again and again: an e-value decides, which may be looked at after every label.

    Args:
        reference, adapted: probabilities f[n,K]. labelled: int[m], images among the disagreements, in the order they
            were asked for. labels: int[m], their classes. planned: how many were asked for.
        before: what was expected without labels; it has no part in the word.

    Raises:
        UserInputError: as `disagreements`.
    """
    apart = disagreements(reference, adapted)
    better = int((adapted[labelled].argmax(axis=1) == labels).sum())
    worse = int((reference[labelled].argmax(axis=1) == labels).sum())
    share, m = len(apart) / len(reference), len(labels)
    p, e = mcnemar(better, worse), e_value(better, worse)
    settled = p < 0.05 if m >= planned else e >= 20
    low, high = (share * (better + worse) / m * (2 * edge - 1) for edge in clopper_pearson(better, better + worse))
    word: Word = "unclear" if not settled else "helped" if better > worse else "hurt"
    middle = (better - worse) / m
    chance = chance_better(better, worse, m, len(apart), len(reference), before)
    return Verdict(
        verdict=word,
        difference=share * middle,
        interval=(low, high),
        n=len(reference),
        disagreements=len(apart),
        witnesses={},
        labels_used=m,
        evidence={"better": better, "worse": worse, "p": p, "e_value": e, "chance": chance},
        labels_wanted=labels_wanted(middle, len(apart)) if word == "unclear" else None,
    )


def mcnemar(better: int, worse: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: images that one model alone has right, against a coin."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def clopper_pearson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a binomial share; (0, 1) for n = 0."""
    from scipy.stats import binomtest

    if not n:
        return 0.0, 1.0
    bounds = binomtest(right, n).proportion_ci(level, method="exact")
    return float(bounds.low), float(bounds.high)


def e_value(better: int, worse: int) -> float:
    """Return 2^n b! c! / (n+1)!, the evidence against a coin that a gambler with a uniform prior has, at any time.

    The chance that it ever reaches 20 is 1/20 at most where neither model is better (Ville's inequality).
    """
    n = better + worse
    logarithm = n * math.log(2) + math.lgamma(better + 1) + math.lgamma(worse + 1) - math.lgamma(n + 2)
    return math.exp(min(logarithm, 700.0))


def chance_better(better: int, worse: int, labels: int, apart: int, n: int, before: Expected) -> float:
    """Return how likely the adapted model is the better one, by labels and by what was expected without them.

    Both are taken for normal and independent: the mean of the labels, without bias, with the variance of a sample that
    is not put back, and what was expected with the spread of the pairs of models that it was fitted on. Unlike
    McNemar's test and the e-value it is no better than that fit.

    Args:
        better, worse: labelled images that one model alone has right. labels: of how many. apart: disagreements, of
            which these were drawn with equal chances. n: images in all.
    """
    if labels >= apart:
        return float(better > worse) if better != worse else 0.5
    share, rate = apart / n, (better + worse + 1) / (labels + 2)
    variance = share**2 * rate / labels * (apart - labels) / max(1, apart - 1)
    prior = (before.fit.spread / NormalDist().inv_cdf(0.95)) ** 2  # half of an interval of 90 %
    seen = share * (better - worse) / labels
    middle = (seen * prior + before.middle * variance) / (prior + variance)
    return NormalDist().cdf(middle / math.sqrt(prior * variance / (prior + variance)))


def labels_wanted(middle: float, most: int) -> int:
    """Return how many labels of disagreements would show such a difference on them in four of five draws.

    Args:
        middle: P(adapted right | D) - P(reference right | D), which cannot be told from 0.1 if it is less. most: of D.
    """
    edge = max(abs(middle), 0.1)
    return min(most, max(6, math.ceil((1.96 + 0.84) ** 2 * 0.7 / edge**2)))


def _word(low: float, high: float) -> Word:
    return "helped" if low > 0 else "hurt" if high < 0 else "unclear"
