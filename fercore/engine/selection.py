"""Scores without target labels as a run goes on, and the checkpoint that one of them chooses.

Everything is worked out from the label-blind adaptation part and from held-out source; never from the test part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fercore.data import Table, eval_batches, side_table
from fercore.data.noise import permutation
from fercore.engine.setup import RunContext
from fercore.evaluation.evaluate import evaluation_order
from fercore.evaluation.selection import (
    Evidence,
    best,
    class_prior,
    evidence_of,
    is_pooled,
    needs,
    score_pool,
)
from fercore.records.outputs import Outputs
from fercore.records.result import Candidate
from fercore.records.step import PLAIN, DomainBatch, Progress
from fercore.runs import checkpoint


def scores_of(context: RunContext, evidence: Evidence) -> dict[str, float]:
    """Return the scores of `select.scores` that the run has evidence for, by name; those of a pool are left out."""
    scores = {}
    for name in context.config.select.scores:
        if not is_pooled(name):
            value = float(score_pool(name, [evidence])[0])
            if np.isfinite(value):
                scores[name] = value
    return scores


LEAST, MOST = 20, 10_000
"""Images that scores of a finished run are of: with fewer none is worked out, of more as many are taken at random."""


def final_scores(outputs: Outputs) -> dict[str, float]:
    """Return the scores of a finished run that the verdict hears, by name; none for fewer images than say anything.

    Args:
        outputs: of the images that the run adapted to; their labels are not looked at.
    """
    n = len(outputs.probs)
    if n < LEAST:
        return {}
    # The same images for every run on this target, so that their scores can be compared.
    some = np.sort(permutation(n, "scores")[:MOST])
    features = {name: rows[some] for name, rows in outputs.features.items()}
    evidence = evidence_of(Outputs(outputs.probs[some], features, {}, outputs.labels[some]), None)
    scores = {name: float(score_pool(name, [evidence])[0]) for name in ("information_maximisation", "class_ami")}
    return {name: score for name, score in scores.items() if np.isfinite(score)}


def gather(context: RunContext, clock: Progress, names: tuple[str, ...]) -> Evidence:
    """Run the reported network over what scores need, and return that.

    Args:
        context: the run as it stands. clock: where training stands. names: of the scores.
    """
    asked = {each for name in names for each in needs(name)}
    domains, model, evaluator = context.domains, context.reported, context.evaluator
    table, train = domains.adaptation, side_table(domains, "source")
    evidence = evidence_of(evaluator.predict(model, table, clock), _validation(context, clock, asked))
    more: dict[str, Any] = {}
    if len(train):
        more["source_prior"] = class_prior(train.labels, len(domains.classes))
    if len(train) and "train_features" in asked:
        more["train_features"] = evidence_of(evaluator.predict(model, train, clock, "source"), None).target_features
    if "target_view_probs" in asked:
        more["target_view_probs"] = evaluator.predict_batches(model, _flipped(context, table), clock).probs
    if "target_au" in asked and domains.au_names:
        more["target_au"] = np.nan_to_num(table.extras["au"])
    if "target_mix" in asked:
        more["target_mix"] = _mixer(context, clock)
    return replace(evidence, **more)


def _validation(context: RunContext, clock: Progress, asked: set[str]) -> Outputs | None:
    held_out = context.domains.validation
    if held_out is None or not any(each.startswith("source_") for each in asked):
        return None
    return context.evaluator.predict(context.reported, held_out, clock, "source")


def _batches(context: RunContext, table: Table) -> Iterator[DomainBatch]:
    model = context.reported
    return eval_batches(table.without_labels(), context.config.data, mean=model.mean, std=model.std)


def _flipped(context: RunContext, table: Table) -> Iterator[DomainBatch]:
    """Yield the batches of an evaluation, mirrored: faces have no left and right."""
    for batch in _batches(context, table.subset(evaluation_order(len(table)))):
        yield replace(batch, images={PLAIN: batch.images[PLAIN].flip(-1)})


def _mixer(context: RunContext, clock: Progress) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    table = context.domains.adaptation

    def mixed(first: np.ndarray, second: np.ndarray, share: float) -> Iterator[DomainBatch]:
        order = evaluation_order(len(first))
        pairs = (_batches(context, table.subset(rows[order])) for rows in (first, second))
        for one, other in zip(*pairs, strict=True):
            yield replace(one, images={PLAIN: share * one.images[PLAIN] + (1 - share) * other.images[PLAIN]})

    def mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
        return context.evaluator.predict_batches(context.reported, mixed(first, second, share), clock).probs

    return mix


@dataclass(frozen=True)
class Chosen:
    """The checkpoint that is reported.

    Attributes:
        clock: where training stood. step: batches trained on. candidates: step and score of each, in order.
    """

    clock: Progress
    step: int
    candidates: list[Candidate]


class Candidates:
    """The checkpoints that a run may report, kept on disk until the choice is made.

    Args:
        path: `candidates/` of the run folder. rule: the score that chooses.
    """

    def __init__(self, path: Path, rule: str) -> None:
        self.path, self.rule = path, rule

    def keep(self, context: RunContext, clock: Progress, evidence: Evidence, done: int) -> None:
        """Keep the reported network as it stands, with what the rule is worked out from.

        Raises:
            WriteError: if it cannot be written.
        """
        pooled = is_pooled(self.rule)
        state = {
            "model": dict(context.reported.state_dict()),
            "clock": asdict(clock),
            "done": done,
            "score": None if pooled else float(score_pool(self.rule, [evidence])[0]),
            "evidence": {each: getattr(evidence, each) for each in needs(self.rule)} if pooled else {},
        }
        self.path.mkdir(exist_ok=True)
        checkpoint.save(self.path / checkpoint.name_of(done), state)

    def forget_after(self, done: int) -> None:
        """Delete what was kept later than a run that goes on from there stands."""
        for path in self.path.glob("step_*"):
            if path.name > checkpoint.name_of(done):
                shutil.rmtree(path)

    def choose(self, context: RunContext) -> Chosen:
        """Give the run's network the weights of the best candidate: the first of equals.

        Raises:
            UserInputError: for a damaged one.
        """
        paths = sorted(self.path.glob("step_*"))
        states = [{key: value for key, value in checkpoint.load(path).items() if key != "model"} for path in paths]
        if is_pooled(self.rule):
            scores = score_pool(self.rule, [Evidence(**state["evidence"]) for state in states])
        else:
            scores = np.array([state["score"] for state in states])
        at = best(scores)
        weights = checkpoint.load(paths[at])["model"]
        # The network in training hands the plugins' buffers on to the average, so both take them.
        context.trained.load_state_dict(weights)
        if context.average is not None:
            context.average.model.load_state_dict(weights)
        candidates = [
            Candidate(step=state["done"], score=float(score) if np.isfinite(score) else None)
            for state, score in zip(states, scores, strict=True)
        ]
        return Chosen(Progress(**states[at]["clock"]), states[at]["done"], candidates)

    def forget(self) -> None:
        """Delete all, once the choice is written down."""
        shutil.rmtree(self.path, ignore_errors=True)
