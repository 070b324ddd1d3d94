"""The table of scores without target labels, and what each is worked out from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fercore.errors import UserInputError, did_you_mean
from fercore.evaluation.selection import accuracy, certainty, mixing, pool, shift, structure
from fercore.evaluation.selection.arrays import shares_of
from fercore.records.outputs import Outputs
from fercore.registry import Registry


@dataclass(frozen=True)
class Evidence:
    """What is known of one candidate without a label of the target. None = not there.

    Attributes:
        target_probs, target_logits: f[N,K]; target_features: f[N,D], of the adaptation part.
        target_view_probs: f[N,K] of another view of the same images. target_au: action units f[N,U].
        target_mix: predicts mixed images; see `fercore.evaluation.selection.mixing.Mix`.
        source_probs, source_logits, source_features, source_labels: of source that was held out from training.
        train_features: of the source that was trained on. source_prior: f[K], its class shares.
    """

    target_probs: np.ndarray
    target_logits: np.ndarray | None = None
    target_features: np.ndarray | None = None
    target_view_probs: np.ndarray | None = None
    target_au: np.ndarray | None = None
    target_mix: mixing.Mix | None = None
    source_probs: np.ndarray | None = None
    source_logits: np.ndarray | None = None
    source_features: np.ndarray | None = None
    source_labels: np.ndarray | None = None
    train_features: np.ndarray | None = None
    source_prior: np.ndarray | None = None


def evidence_of(target: Outputs, source: Outputs | None) -> Evidence:
    """Return what the outputs of a network say.

    Logits are the logarithms of the reported probabilities, whatever branches they come from: all that is worked out
    from logits is the same for logits that differ by a constant in each row. Features of branches stand side by side.

    Args:
        target: of the adaptation part; its labels are not looked at. source: of labelled source that was held out.
    """
    evidence = Evidence(target.probs, _logits(target), _features(target))
    if source is None:
        return evidence
    return replace(
        evidence,
        source_probs=source.probs,
        source_logits=_logits(source),
        source_features=_features(source),
        source_labels=source.labels,
    )


def class_prior(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return f[K], the share of each class."""
    return shares_of(labels, classes)


def _logits(outputs: Outputs) -> np.ndarray:
    logits: np.ndarray = np.log(np.maximum(outputs.probs.astype(np.float64), np.finfo(np.float32).tiny))
    return logits


def _features(outputs: Outputs) -> np.ndarray:
    return np.concatenate([outputs.features[name] for name in sorted(outputs.features)], axis=1)


POOLED = {"pool_probs": "target_probs", "pool_source_probs": "source_probs"}
"""Argument that holds all candidates, f[M,N,K] -> the evidence of one that it is stacked from."""

VALIDATORS: Registry[Callable[..., Any]] = Registry(
    "fercore.validators",
    {
        "source_accuracy": accuracy.source_accuracy,
        "source_balanced_accuracy": accuracy.source_balanced_accuracy,
        "entropy": certainty.entropy,
        "diversity": certainty.diversity,
        "information_maximisation": certainty.information_maximisation,
        "bnm": certainty.bnm,
        "nuclear_norm": certainty.nuclear_norm,
        "snd": certainty.snd,
        "mano": certainty.mano,
        "class_ami": structure.class_ami,
        "class_silhouette": structure.class_silhouette,
        "neighbour_agreement": structure.neighbour_agreement,
        "au_agreement": structure.au_agreement,
        "mmd": shift.mmd,
        "coral": shift.coral,
        "a_distance": shift.a_distance,
        "dev": shift.dev,
        "prior_distance": certainty.prior_distance,
        "consistency": certainty.consistency,
        "mixval": mixing.mixval,
        "ensemble": pool.ensemble,
        "agreement": pool.agreement,
        "agreement_on_the_line": pool.agreement_on_the_line,
        "average_confidence": accuracy.average_confidence,
        "difference_of_confidences": accuracy.difference_of_confidences,
        "atc": accuracy.atc,
    },
)
"""Name -> function, higher is better, whose parameters name what it needs: attributes of `Evidence` for a score of one
candidate (a float), and keys of `POOLED` for scores of all at once (float[M])."""

AGGREGATE = ("source_balanced_accuracy", "information_maximisation", "nuclear_norm", "class_ami", "ensemble")
"""Scores whose mean rank is the aggregate: of different kinds, so that what fools one does not fool them all."""


def needs(name: str) -> tuple[str, ...]:
    """Return which attributes of `Evidence` a score is worked out from.

    Raises:
        UserInputError: if nobody knows the score, or it asks for what there is none of.
    """
    known = {field.name for field in fields(Evidence)}
    asked = tuple(inspect.signature(_validator(name)).parameters)
    if strange := [each for each in asked if each not in known and each not in POOLED]:
        what = f"score {name!r} asks for {strange[0]!r}"
        raise UserInputError(what, where=VALIDATORS.group, fix=did_you_mean(strange[0], sorted(known | POOLED.keys())))
    return tuple(POOLED.get(each, each) for each in asked)


def needs_source(name: str) -> bool:
    """Say whether a score needs source samples that were held out."""
    return any(each.startswith("source_") and each != "source_prior" for each in needs(name))


def is_pooled(name: str) -> bool:
    """Say whether a score is one of all candidates at once."""
    return bool(POOLED.keys() & set(inspect.signature(_validator(name)).parameters))


def _validator(name: str) -> Callable[..., Any]:
    if name not in VALIDATORS:
        raise UserInputError(f"unknown score {name!r}", where="select", fix=did_you_mean(name, list(VALIDATORS)))
    return VALIDATORS[name]


def score_pool(name: str, candidates: Sequence[Evidence]) -> np.ndarray:
    """Return f[M], a score of each candidate; NaN where it is not defined, or is worked out from what is not there.

    Args:
        name: of the score. candidates: with the same images, in the same order.

    Raises:
        UserInputError: as `needs`.
    """
    asked = needs(name)
    there = [all(getattr(one, each) is not None for each in asked) for one in candidates]
    function = _validator(name)
    if not is_pooled(name):
        scores = [
            function(**_given(one, asked)) if known else np.nan for one, known in zip(candidates, there, strict=True)
        ]
        return np.array(scores, dtype=np.float64)
    by_candidate = np.full(len(candidates), np.nan)
    if heard := [one for one, known in zip(candidates, there, strict=True) if known]:
        given: dict[str, Any] = {}
        for each in inspect.signature(function).parameters:
            own = [getattr(one, POOLED.get(each, each)) for one in heard]
            given[each] = np.stack(own) if each in POOLED else own[0]
        by_candidate[there] = function(**given)
    return by_candidate


def _given(evidence: Evidence, asked: Sequence[str]) -> dict[str, Any]:
    return {each: getattr(evidence, each) for each in asked}


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return f[M], 1 = best; equal scores share their mean rank, and NaN come last."""
    order = np.where(np.isnan(scores), -np.inf, scores)
    higher = (order[None] > order[:, None]).sum(axis=1)
    places: np.ndarray = 1 + higher + ((order[None] == order[:, None]).sum(axis=1) - 1) / 2
    return places


def aggregate(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return f[M], minus the mean rank of each candidate over the scores of `AGGREGATE` that say anything.

    Raises:
        ValueError: if none of them does.
    """
    told = [ranks(scores[name]) for name in AGGREGATE if name in scores and not np.isnan(scores[name]).all()]
    aggregated: np.ndarray = -np.mean(np.stack(told), axis=0)
    return aggregated


def best(scores: np.ndarray) -> int:
    """Return the candidate with the highest score, the first of equals; NaN loses to everything."""
    return int(np.argmax(np.where(np.isnan(scores), -np.inf, scores)))
